"""show_metrics.py as a user runs it, against moto_server."""

import show_metrics

JOB = {"Project": "normals", "JobName": "job-1", "Host": "algo-1"}


def test_the_last_hour_as_table_and_picture(aws, script, tmp_path):
    aws.publish("GpuUtilization", [0, 50, 100], JOB)
    aws.publish("GpuUtilization", [7], {**JOB, "JobName": "another"})
    aws.publish("SamplesPerSecond", [20], JOB)
    result = script("show_metrics.py", "job-1", "--png", tmp_path / "hour.png")
    assert result.returncode == 0, result.stderr
    _, utilization, samples, _ = result.stdout.splitlines()
    assert utilization.split() == ["GpuUtilization", "algo-1", "100", "50", "100", "▁▅█"]
    assert samples.split() == ["SamplesPerSecond", "algo-1", "20", "20", "20", "▁"]
    assert (tmp_path / "hour.png").read_bytes().startswith(b"\x89PNG")


def test_gpus_and_figures_that_are_told_apart_have_their_names(aws, script):
    door = {"Project": "normals", "Endpoint": "door", "Variant": "v"}
    for figure in ("brightness", "sharpness"):
        aws.publish("DriftPsi", [0.3], {**door, "Figure": figure})
    for gpu in "01":
        aws.publish("GpuUtilization", [50], {**door, "Gpu": gpu})
    result = script("show_metrics.py", "door")
    assert result.returncode == 0, result.stderr
    rows = [line.split("  ") for line in result.stdout.splitlines()[1:]]
    assert [[cell.strip() for cell in row if cell.strip()][:2] for row in rows] == [
        ["DriftPsi", "v brightness"],
        ["DriftPsi", "v sharpness"],
        ["GpuUtilization", "v GPU 0"],
        ["GpuUtilization", "v GPU 1"],
    ]


def test_nothing_to_show_is_said(aws, script):
    result = script("show_metrics.py", "nobody")
    assert result.returncode == 1
    assert "no metric of 'nobody'" in result.stderr


def test_a_sparkline_keeps_its_ends_and_its_width():
    line = show_metrics.sparkline(range(1000))
    assert (len(line), line[0], line[-1]) == (show_metrics.SPARKS, "▁", "█")
    assert show_metrics.sparkline([3, 3]) == "▁▁"
