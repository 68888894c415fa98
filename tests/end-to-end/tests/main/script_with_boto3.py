"""Drives the sandbox with boto3: every call that an operator's script makes. Prints the names of the checks that held."""

import datetime
import json
import sys
import time

import boto3

endpoint, function = sys.argv[1:]
settings = {
    "endpoint_url": endpoint,
    "region_name": "us-east-1",
    "aws_access_key_id": "person",
    "aws_secret_access_key": "person",
}
secrets = boto3.client("secretsmanager", **settings)
functions = boto3.client("lambda", **settings)
metrics = boto3.client("cloudwatch", **settings)

NAME = "shop/boto3/admin-token"
arn = secrets.create_secret(Name=NAME, SecretString="the value before the rotation")["ARN"]
secrets.tag_resource(SecretId=arn, Tags=[{"Key": "rotation:token-prefix", "Value": "acme"}])
version = secrets.rotate_secret(
    SecretId=NAME, RotationLambdaARN=function, RotationRules={"AutomaticallyAfterDays": 90}
)["VersionId"]
for _ in range(600):
    described = secrets.describe_secret(SecretId=NAME)
    if "LastRotatedDate" in described:
        break
    time.sleep(0.05)
stages = described["VersionIdsToStages"]
assert "AWSCURRENT" in stages[version], stages
assert described["NextRotationDate"] > described["LastRotatedDate"]
print("rotated")

value = secrets.get_secret_value(SecretId=NAME)
assert value["VersionId"] == version and value["SecretString"].startswith("acme_")
print("read")

listed = secrets.list_secrets(Filters=[{"Key": "tag-key", "Values": ["rotation:token-prefix"]}])["SecretList"]
assert [secret["Name"] for secret in listed] == [NAME], "the secret is listed by its tag"
print("listed")

previous = next(version for version, of in stages.items() if "AWSPREVIOUS" in of)
secrets.update_secret_version_stage(SecretId=NAME, VersionStage="AWSPREVIOUS", RemoveFromVersionId=previous)
assert previous not in secrets.describe_secret(SecretId=NAME)["VersionIdsToStages"]
print("revoked")

event = {"Step": "testSecret", "SecretId": arn, "ClientRequestToken": version}
answer = functions.invoke(FunctionName=function, Payload=json.dumps(event))
assert answer["StatusCode"] == 200 and json.load(answer["Payload"])["outcome"] == "nothingToDo"
print("invoked")

names = {metric["MetricName"] for metric in metrics.list_metrics(Namespace="SecretRotation")["Metrics"]}
assert names == {"RotationSucceeded", "RotationDuration"}, names
now, hour = datetime.datetime.now(datetime.timezone.utc), datetime.timedelta(hours=1)
points = metrics.get_metric_statistics(
    Namespace="SecretRotation",
    MetricName="RotationSucceeded",
    StartTime=now - hour,
    EndTime=now + hour,
    Period=7200,
    Statistics=["Sum"],
)["Datapoints"]
assert sum(point["Sum"] for point in points) == 1, points
print("measured")
