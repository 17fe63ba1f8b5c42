"""What serve makes of the cores that it may use."""

from cores import available_cores


def test_the_server_says_what_it_takes_and_can_be_told_otherwise(start_server):
    server = start_server(SAGEMAKER_MODEL_SERVER_WORKERS=2, OMP_NUM_THREADS=3)
    assert (
        "for 2 workers (SAGEMAKER_MODEL_SERVER_WORKERS) with 3 threads each (OMP_NUM_THREADS)" in server.log
    )
    assert server.invoke({"variable": "OMP_NUM_THREADS"}).json() == ["3"]
    usual = start_server()
    assert usual.invoke({"variable": "OMP_NUM_THREADS"}).json() == [str(available_cores())]


def test_an_engine_that_the_model_does_not_offer_ends_the_start(start_server):
    server = start_server(ready=False, ENGINE="warp")
    assert server.exit_code() == 4
    assert "ENGINE='warp', but doubling.predictor offers no ENGINES" in server.log
