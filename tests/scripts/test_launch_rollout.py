"""launch.py deploy in all its forms, update, register and tune, against moto_server or on the dry run."""

import json

import pytest

ROLE = "arn:aws:iam::123456789012:role/sagemaker"
IMAGE = "123456789012.dkr.ecr.us-east-1.amazonaws.com/surface-normals-serve@sha256:" + "0" * 64
HOST = ("--role", ROLE, "--image", IMAGE, "--poll-seconds", "0.05", "--instance-type", "ml.g4dn.xlarge")
DEPLOY = ("deploy", *HOST, "--model-data", "s3://bucket/model.tar.gz", "--name", "normals")
SEVERAL = ("deploy", *HOST, "--name", "normals")


def dry(launch, *arguments):
    """The calls of a dry run, as (method, arguments)."""
    result = launch(*arguments, "--dry-run")
    assert result.returncode == 0, result.stderr
    return [(call["method"], call["arguments"]) for call in json.loads(result.stdout)]


def config_of(launch, *arguments):
    return dict(dry(launch, *arguments))["create_endpoint_config"]


# deploy


def test_autoscaling_is_set_when_the_endpoint_serves_and_goes_with_it(aws, launch):
    result = launch(*DEPLOY, "--autoscale", "1:4", "--target", "6")
    assert result.returncode == 0, result.stderr
    scaling = aws.client("application-autoscaling")
    [target] = scaling.describe_scalable_targets(ServiceNamespace="sagemaker")["ScalableTargets"]
    assert target["ResourceId"] == "endpoint/normals/variant/AllTraffic"
    assert (target["MinCapacity"], target["MaxCapacity"]) == (1, 4)
    [policy] = scaling.describe_scaling_policies(ServiceNamespace="sagemaker")["ScalingPolicies"]
    assert policy["TargetTrackingScalingPolicyConfiguration"]["TargetValue"] == 6
    assert launch("delete", "normals").returncode == 0
    assert not scaling.describe_scalable_targets(ServiceNamespace="sagemaker")["ScalableTargets"]


def test_data_capture_keeps_requests_and_answers(launch):
    capture = config_of(launch, *DEPLOY, "--data-capture", "s3://bucket/seen", "--data-capture-percent", "5")
    assert capture["DataCaptureConfig"]["InitialSamplingPercentage"] == 5
    assert capture["DataCaptureConfig"]["CaptureOptions"] == [
        {"CaptureMode": "Input"},
        {"CaptureMode": "Output"},
    ]


def test_serverless_has_no_instance(launch):
    [variant] = config_of(launch, *DEPLOY, "--serverless")["ProductionVariants"]
    assert variant == {
        "VariantName": "AllTraffic",
        "ModelName": "normals",
        "ServerlessConfig": {"MemorySizeInMB": 4096, "MaxConcurrency": 5},
    }


def test_an_asynchronous_endpoint_scales_to_zero_and_from_it(aws, launch):
    asynchronous = (
        "--async",
        "s3://bucket/answers",
        "--notify-error",
        "arn:aws:sns:us-east-1:123456789012:failed",
    )
    result = launch(*DEPLOY, *asynchronous, "--autoscale", "0:2")
    assert result.returncode == 0, result.stderr
    sent = aws.sent("CreateEndpointConfig")["AsyncInferenceConfig"]
    assert sent["OutputConfig"] == {
        "S3OutputPath": "s3://bucket/answers",
        "S3FailurePath": "s3://bucket/answers/failures",
        "NotificationConfig": {"ErrorTopic": "arn:aws:sns:us-east-1:123456789012:failed"},
    }
    environment = aws.sent("CreateModel")["PrimaryContainer"]["Environment"]
    assert (environment["MAX_BODY_MB"], environment["REQUEST_TIMEOUT_SECONDS"]) == ("1024", "3600")
    [alarm] = aws.client("cloudwatch").describe_alarms()["MetricAlarms"]
    assert alarm["MetricName"] == "HasBacklogWithoutCapacity"
    assert alarm["Dimensions"] == [{"Name": "EndpointName", "Value": "normals"}]
    policies = aws.client("application-autoscaling").describe_scaling_policies(ServiceNamespace="sagemaker")
    steps = [row for row in policies["ScalingPolicies"] if row["PolicyType"] == "StepScaling"]
    assert alarm["AlarmActions"] == [steps[0]["PolicyARN"]]
    assert launch("delete", "normals").returncode == 0
    assert not aws.client("cloudwatch").describe_alarms()["MetricAlarms"]


def test_an_inference_component_scales_to_zero(aws, launch):
    up = {"status": 200, "EndpointName": "normals", "EndpointStatus": "InService"}
    for operation in ("CreateEndpointConfig", "CreateEndpoint", "DescribeEndpoint"):
        aws.answers[operation] = [up]  # moto knows no variant without a model
    aws.answers["RegisterScalableTarget"] = [{"status": 200}]
    aws.answers["PutScalingPolicy"] = [{"status": 200, "PolicyARN": f"arn-{number}"} for number in range(2)]
    result = launch(*DEPLOY, "--inference-component", "--autoscale", "0:3")
    assert result.returncode == 0, result.stderr
    config = aws.sent("CreateEndpointConfig")
    [variant] = config["ProductionVariants"]
    assert "ModelName" not in variant
    scaling = {"Status": "ENABLED", "MinInstanceCount": 0, "MaxInstanceCount": 3}
    assert variant["ManagedInstanceScaling"] == scaling
    assert config["ExecutionRoleArn"] == ROLE
    component = aws.sent("CreateInferenceComponent")
    assert component["Specification"]["ModelName"] == "normals"
    assert (
        component["Specification"]["ComputeResourceRequirements"]["NumberOfAcceleratorDevicesRequired"] == 1
    )
    assert aws.operations.index("CreateInferenceComponent") > aws.operations.index("DescribeEndpoint")
    [alarm] = aws.client("cloudwatch").describe_alarms()["MetricAlarms"]
    assert (alarm["MetricName"], alarm["AlarmActions"]) == ("NoCapacityInvocationFailures", ["arn-1"])


def test_an_inference_component_has_all_that_other_endpoints_have(launch):
    own = ("--subnet", "subnet-1", "--security-group", "sg-1", "--network-isolation", "--volume-kms-key", "v")
    config = config_of(launch, *DEPLOY, "--inference-component", *own, "--data-capture", "s3://bucket/seen")
    assert config["VpcConfig"] == {"Subnets": ["subnet-1"], "SecurityGroupIds": ["sg-1"]}
    assert (config["EnableNetworkIsolation"], config["KmsKeyId"]) == (True, "v")
    assert config["DataCaptureConfig"]["DestinationS3Uri"] == "s3://bucket/seen"


def test_more_of_awss_own_metrics(launch):
    metrics = {"EnableEnhancedMetrics": True, "MetricPublishFrequencyInSeconds": 10}
    for how in ((), ("--inference-component",)):
        assert config_of(launch, *DEPLOY, *how, "--enhanced-metrics", "10")["MetricsConfig"] == metrics
    assert "MetricsConfig" not in config_of(launch, *DEPLOY)


def test_several_variants_share_the_traffic_and_each_knows_its_name(launch):
    calls = dry(
        launch, *SEVERAL, "--variant", "old=s3://b/old.tar.gz,9", "--variant", "new=s3://b/new.tar.gz,1"
    )
    models = [arguments for method, arguments in calls if method == "create_model"]
    assert [model["ModelName"] for model in models] == ["normals-old", "normals-new"]
    names = [model["PrimaryContainer"]["Environment"]["VARIANT_NAME"] for model in models]
    assert names == ["old", "new"]
    variants = dict(calls)["create_endpoint_config"]["ProductionVariants"]
    assert [variant["InitialVariantWeight"] for variant in variants] == [9, 1]


def test_a_shadow_gets_copies_only(launch):
    config = config_of(launch, *DEPLOY, "--shadow", "next=s3://b/new.tar.gz")
    assert [row["VariantName"] for row in config["ProductionVariants"]] == ["AllTraffic"]
    assert [row["VariantName"] for row in config["ShadowProductionVariants"]] == ["next"]


@pytest.mark.parametrize(
    ("cuda", "instance_type", "ami"),
    [
        ("12", "ml.g5.xlarge", "al2-ami-sagemaker-inference-gpu-3-1"),
        ("13", "ml.g5.xlarge", "al2023-ami-sagemaker-inference-gpu-4-1"),
        ("13", "ml.c6i.xlarge", None),
    ],
)
def test_the_host_suits_the_images_cuda(launch, cuda, instance_type, ami):
    config = config_of(launch, *DEPLOY, "--cuda", cuda, "--instance-type", instance_type)
    assert config["ProductionVariants"][0].get("InferenceAmiVersion") == ami


POOLS = ("--instance-type", "ml.g6.xlarge,ml.g5.xlarge")


def test_of_several_instance_types_an_endpoint_takes_the_first_there_is(launch):
    pools = [
        {"InstanceType": "ml.g6.xlarge", "Priority": 1},
        {"InstanceType": "ml.g5.xlarge", "Priority": 2},
    ]
    [variant] = config_of(launch, *DEPLOY, *POOLS, "--instance-count", "2")["ProductionVariants"]
    assert (variant["InstancePools"], variant["InitialInstanceCount"]) == (pools, 2)
    assert "InstanceType" not in variant
    assert variant["InferenceAmiVersion"] == "al2-ami-sagemaker-inference-gpu-3-1"
    calls = dict(dry(launch, *DEPLOY, *POOLS, "--inference-component"))
    [variant] = calls["create_endpoint_config"]["ProductionVariants"]
    assert variant["InstancePools"] == pools
    needs = calls["create_inference_component"]["Specification"]["ComputeResourceRequirements"]
    assert needs["NumberOfAcceleratorDevicesRequired"] == 1


@pytest.mark.parametrize("other", ["ml.g7e.2xlarge", "ml.c7i.xlarge"])
def test_instance_types_that_need_different_drivers_are_refused_unless_one_is_named(launch, refused, other):
    mixed = ("--instance-type", f"ml.g5.xlarge,{other}")
    assert "name one that suits all with --inference-ami" in refused(*DEPLOY, *mixed)
    ami = "al2023-ami-sagemaker-inference-gpu-4-1"
    [variant] = config_of(launch, *DEPLOY, *mixed, "--inference-ami", ami)["ProductionVariants"]
    assert variant["InferenceAmiVersion"] == ami


def test_a_crash_leaves_its_memory_and_a_shell_is_let_in_where_asked(launch):
    asked = ("--core-dumps", "s3://bucket/dumps", "--kms-key", "alias/data", "--ssm-access")
    [variant] = config_of(launch, *DEPLOY, *asked)["ProductionVariants"]
    assert variant["CoreDumpConfig"] == {"DestinationS3Uri": "s3://bucket/dumps", "KmsKeyId": "alias/data"}
    assert variant["EnableSSMAccess"] is True
    [variant] = config_of(launch, *DEPLOY)["ProductionVariants"]
    assert not {"CoreDumpConfig", "EnableSSMAccess"} & set(variant)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ((*SEVERAL,), "give either --job"),
        ((*DEPLOY, "--variant", "a=j"), "give either --job"),
        ((*SEVERAL, "--variant", "a=j,much"), "the weight 'much' is no number"),
        ((*SEVERAL, "--variant", "a=j", "--variant", "a=k"), "a name of its own"),
        ((*SEVERAL, "--variant", "a=j", "--variant", "b=k", "--shadow", "c=l"), "exactly one other"),
        ((*DEPLOY, "--serverless", "--async", "s3://b/c"), "exclude each other"),
        ((*DEPLOY, "--serverless", "--core-dumps", "s3://b/c"), "a serverless endpoint has no --core-dumps"),
        ((*DEPLOY, "--serverless", "--ssm-access"), "a serverless endpoint has no --ssm-access"),
        ((*DEPLOY, "--core-dumps", "dumps"), "'dumps' is not of the form s3://BUCKET/PREFIX"),
        ((*DEPLOY, *POOLS, "--instance-usd-per-hour", "1"), "is the price of one --instance-type"),
        ((*DEPLOY, "--instance-type", "ml.g5.xlarge,"), "'ml.g5.xlarge,': one type, or up to 5"),
        ((*DEPLOY, "--instance-type", "ml.g5.xlarge,ml.p3dn.24xlarge"), "InstancePools[1].InstanceType"),
        ((*DEPLOY, "--serverless", "--serverless-memory", "3000"), "--serverless-memory 3000: one of 1024"),
        ((*DEPLOY, "--serverless", "--serverless-concurrency", "201"), "from 1 to 200"),
        (
            (*DEPLOY, "--serverless", "--data-capture", "s3://b/c"),
            "serverless endpoint has no --data-capture",
        ),
        ((*DEPLOY, "--serverless", "--autoscale", "1:2"), "scales by itself"),
        ((*DEPLOY, "--autoscale", "2:1"), "is not MIN:MAX"),
        ((*DEPLOY, "--autoscale", "0:2"), "is not MIN:MAX with 1 <= MIN"),
        ((*DEPLOY, "--autoscale", "1:2", "--no-wait"), "must serve before it can be scaled"),
        ((*DEPLOY, "--notify-error", "arn:aws:sns:us-east-1:123456789012:failed"), "is for --async"),
        ((*DEPLOY, "--async", "s3://b/c", "--concurrency", "1001"), "is 1001, above 1000"),
        ((*DEPLOY, "--instance-type", "ml.c7g.large"), "ml.c7g.large has an Arm processor"),
        ((*DEPLOY, "--inference-component", "--serverless"), "--inference-component goes without"),
    ],
)
def test_what_does_not_go_together_is_refused_before_any_call(aws, refused, arguments, said):
    assert said in refused(*arguments)
    assert aws.requests == []


# update

UPDATE = ("update", *HOST, "--endpoint", "normals", "--model-data", "s3://bucket/new.tar.gz")


def test_update_goes_in_steps_and_back_at_an_alarm(aws, launch):
    assert launch(*DEPLOY).returncode == 0
    aws.requests.clear()
    calls = dict(dry(launch, *UPDATE, "--max-latency-ms", "500", "--alarm", "mine"))
    aws.answers["DescribeEndpoint"] = [
        {"EndpointStatus": "Updating"},
        {"EndpointStatus": "InService", "EndpointConfigName": "normals"},
    ]
    result = launch(*UPDATE, "--max-latency-ms", "500", "--alarm", "mine")
    assert result.returncode == 1
    assert "endpoint normals went back to normals: an alarm rang" in result.stderr
    sent = aws.sent("UpdateEndpoint")
    assert (
        sent["DeploymentConfig"]
        == calls["update_endpoint"]["DeploymentConfig"]
        == {
            "BlueGreenUpdatePolicy": {
                "TrafficRoutingConfiguration": {
                    "Type": "LINEAR",
                    "WaitIntervalInSeconds": 300,
                    "LinearStepSize": {"Type": "CAPACITY_PERCENT", "Value": 25},
                },
                "TerminationWaitInSeconds": 300,
            },
            "AutoRollbackConfiguration": {
                "Alarms": [
                    {"AlarmName": "normals-AllTraffic-errors"},
                    {"AlarmName": "normals-AllTraffic-latency"},
                    {"AlarmName": "mine"},
                ]
            },
        }
    )
    alarms = aws.client("cloudwatch").describe_alarms()["MetricAlarms"]
    limits = {alarm["MetricName"]: alarm["Threshold"] for alarm in alarms}
    assert limits == {"Invocation5XXErrors": 3, "ModelLatency": 500_000}  # microseconds
    assert launch("delete", "normals").returncode == 0  # also what the update made
    sagemaker = aws.client("sagemaker")
    assert not sagemaker.list_models()["Models"]
    assert not sagemaker.list_endpoint_configs()["EndpointConfigs"]
    assert not aws.client("cloudwatch").describe_alarms()["MetricAlarms"]


def test_an_update_that_aws_refuses_leaves_nothing(aws, launch, refused):
    assert launch(*DEPLOY).returncode == 0
    limits = ("--max-latency-ms", "500")
    mine = {
        "AlarmName": "normals-AllTraffic-latency",
        "MetricName": "m",
        "Namespace": "n",
        "Statistic": "Sum",
    }
    mine |= {
        "Period": 60,
        "EvaluationPeriods": 1,
        "Threshold": 1,
        "ComparisonOperator": "GreaterThanThreshold",
    }
    aws.client("cloudwatch").put_metric_alarm(**mine)  # of an update before
    refusal = {"status": 400, "__type": "ValidationException", "message": "endpoint is Updating"}
    aws.answers["UpdateEndpoint"] = [refusal]
    assert "AWS refused UpdateEndpoint" in refused(*UPDATE, *limits)
    sagemaker = aws.client("sagemaker")
    assert [row["ModelName"] for row in sagemaker.list_models()["Models"]] == ["normals"]
    assert len(sagemaker.list_endpoint_configs()["EndpointConfigs"]) == 1
    left = aws.client("cloudwatch").describe_alarms()["MetricAlarms"]
    assert [alarm["AlarmName"] for alarm in left] == ["normals-AllTraffic-latency"]


# register


def test_register_puts_the_model_and_its_metrics_into_the_registry_and_deploy_takes_the_approved(
    aws, launch, refused
):
    train = ("train", "--role", ROLE, "--data", "s3://bucket/data", "--output", "s3://bucket/models")
    assert launch(*train, "--image", IMAGE, "--name", "job-1", "--no-wait").returncode == 0
    aws.client("s3").create_bucket(Bucket="bucket")
    aws.answers["DescribeTrainingJob"] = [
        {"FinalMetricDataList": [{"MetricName": "val_mean_angular_error", "Value": 14.5, "Timestamp": 0}]}
    ]
    registered = launch("register", "--job", "job-1", "--image", IMAGE)
    assert registered.returncode == 0, registered.stderr
    body = aws.client("s3").get_object(Bucket="bucket", Key="models/job-1/output/evaluation.json")["Body"]
    assert json.load(body)["regression_metrics"]["val_mean_angular_error"]["value"] == 14.5
    sent = aws.sent("CreateModelPackage")
    assert sent["ModelApprovalStatus"] == "PendingManualApproval"
    assert sent["CustomerMetadataProperties"] == {"training_job": "job-1", "val_mean_angular_error": "14.5"}
    container = sent["InferenceSpecification"]["Containers"][0]
    assert container["ModelDataUrl"] == "s3://bucket/models/job-1/output/model.tar.gz"

    package = (*SEVERAL, "--package", "surface-normals")
    assert "no model of surface-normals is approved" in refused(*package)
    sagemaker = aws.client("sagemaker")
    [row] = sagemaker.list_model_packages(ModelPackageGroupName="surface-normals")["ModelPackageSummaryList"]
    sagemaker.update_model_package(ModelPackageArn=row["ModelPackageArn"], ModelApprovalStatus="Approved")
    deployed = launch(*package)
    assert deployed.returncode == 0, deployed.stderr
    container = aws.sent("CreateModel")["PrimaryContainer"]
    assert container["ModelPackageName"] == row["ModelPackageArn"]
    assert "Image" not in container


# tune

TUNE = (
    *("tune", "--role", ROLE, "--data", "s3://bucket/data", "--output", "s3://bucket/models"),
    *("--image", IMAGE, "--poll-seconds", "0.05", "--name", "search", "--pretrained", "s3://bucket/weights"),
)


def trial(name, value, status="Completed"):
    return {
        "TrainingJobName": name,
        "TrainingJobArn": name,
        "TrainingJobStatus": status,
        "CreationTime": 0,
        "TunedHyperParameters": {"loss": "angmf"},
        "FinalHyperParameterTuningJobObjectiveMetric": {"MetricName": "m", "Value": value},
    }


def test_tune_searches_ranks_and_deploys_the_best(aws, launch):
    aws.answers["DescribeHyperParameterTuningJob"] = [{"HyperParameterTuningJobStatus": "Completed"}]
    aws.answers["ListTrainingJobsForHyperParameterTuningJob"] = [
        {
            "status": 200,
            "TrainingJobSummaries": [trial("t-1", 15.0), trial("t-2", 13.5), trial("t-3", 9, "Failed")],
        }
    ]
    aws.answers["DescribeTrainingJob"] = [
        {
            "status": 200,
            "TrainingJobStatus": "Completed",
            "ModelArtifacts": {"S3ModelArtifacts": "s3://b/t-2.tar.gz"},
        }
    ]
    best = ("--best", "normals", "--best-image", IMAGE, "--best-instance-type", "ml.g4dn.xlarge")
    result = launch(*TUNE, *best)
    assert result.returncode == 0, result.stderr
    ranking = [line.split()[:3] for line in result.stdout.splitlines() if " t-" in line]
    assert ranking == [["1", "9.0000", "t-3"], ["2", "13.5000", "t-2"], ["3", "15.0000", "t-1"]]
    assert aws.sent("CreateModel")["PrimaryContainer"]["ModelDataUrl"] == "s3://b/t-2.tar.gz"
    job = aws.sent("CreateHyperParameterTuningJob")
    config = job["HyperParameterTuningJobConfig"]
    assert config["Strategy"] == "Bayesian"
    assert config["TrainingJobEarlyStoppingType"] == "Auto"
    ranges = config["ParameterRanges"]
    names = {row["Name"] for rows in ranges.values() for row in rows}
    assert names == {"encoder", "size", "learning_rate", "loss"}
    metrics = job["TrainingJobDefinition"]["AlgorithmSpecification"]["MetricDefinitions"]
    assert config["HyperParameterTuningJobObjective"]["MetricName"] in {row["Name"] for row in metrics}


def test_tune_plans_the_deployment_before_the_search_is_paid(aws, launch, refused):
    image = ("--best-image", IMAGE)
    assert "ModelName: 'bad_name!'" in refused(*TUNE, "--best", "bad_name!", *image)
    assert "no file serve.digest" in refused(*TUNE, "--best", "normals")
    assert (
        "ml.g5.huge"
        in launch(*TUNE, "--best", "n", *image, "--best-instance-type", "ml.g5.huge", "--dry-run").stderr
    )
    assert aws.requests == []


def test_the_best_gets_the_network_the_keys_and_the_tags_of_the_search(launch):
    own = ("--subnet", "subnet-1", "--security-group", "sg-1", "--network-isolation", "--tag", "team=vision")
    keys = ("--kms-key", "k", "--volume-kms-key", "v")
    calls = dict(dry(launch, *TUNE, "--best", "normals", "--best-image", IMAGE, *own, *keys))
    model, config = calls["create_model"], calls["create_endpoint_config"]
    assert model["VpcConfig"] == {"Subnets": ["subnet-1"], "SecurityGroupIds": ["sg-1"]}
    assert model["EnableNetworkIsolation"] is True
    assert config["KmsKeyId"] == "v"
    for request in (model, config, calls["create_endpoint"]):
        assert {"Key": "team", "Value": "vision"} in request["Tags"]


@pytest.mark.parametrize("verb", ["tune", "pipeline"])
def test_several_instances_in_a_vpc_are_looked_at_by_every_verb_that_trains(aws, refused, verb):
    aws.client("s3").create_bucket(Bucket="bucket")
    group = aws.client("ec2").create_security_group(GroupName=verb, Description="g")["GroupId"]
    extra = () if verb == "tune" else ("--validation", "s3://bucket/v", "--serve-image", IMAGE)
    words = (
        verb,
        *TUNE[1:],
        *extra,
        "--instance-count",
        "2",
        "--subnet",
        "subnet-1",
        "--security-group",
        group,
    )
    assert "lets its members speak" in refused(*words)
    assert not [operation for operation in aws.operations if operation.startswith("Create")]


def test_hyperband_gives_epochs(launch):
    [(_, job)] = dry(launch, *TUNE, "--strategy", "Hyperband", "--hyperparameter", "epochs=9")
    config = job["HyperParameterTuningJobConfig"]
    assert config["StrategyConfig"] == {"HyperbandStrategyConfig": {"MinResource": 2, "MaxResource": 9}}
    assert config["TrainingJobEarlyStoppingType"] == "Off"


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--range", "learning_rate=1:2"), "'learning_rate' must be at most 1.0"),
        (("--range", "epcohs=1:2"), "'epcohs' is unknown"),
        (("--range", "epochs=9:2"), "MIN must be below MAX"),
        (("--range", "learning_rate=log:0:1"), "above 0 where it is log:"),
        (("--range", "loss=angmf|cosine", "--hyperparameter", "loss=angmf"), "both a hyperparameter"),
        (("--name", "n" * 33), "at most 32"),
        (("--parallel", "20"), "--parallel 20: from 1 to --trials 12"),
        (("--strategy", "Hyperband", "--range", "epochs=2:9"), "Hyperband itself decides"),
        (("--strategy", "Grid"), "Grid takes only choices"),
        (("--instance-type", "ml.g6.xlarge,ml.g5.xlarge"), "all trials of a search run on one type"),
    ],
)
def test_tune_refuses_what_no_trial_would_accept(aws, refused, arguments, said):
    assert said in refused(*TUNE, *arguments)
    assert aws.requests == []
