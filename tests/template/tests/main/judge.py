"""What IAM decides about requests, by the evaluator of ministack: one JSON line in for each request, one decision out."""

import json
import sys

from ministack.core.iam_evaluator import EvalContext, evaluate, parse_policy_document

for line in sys.stdin:
    request = json.loads(line)
    context = EvalContext(
        principal_arn="arn:aws:sts::000000000000:assumed-role/role/session",
        principal_type="AssumedRole",
        principal_account="000000000000",
        action=request["action"],
        resource_arn=request["resource"],
        region="us-east-1",
        # The evaluator looks keys up in lower case. A request that names no tags has no aws:TagKeys.
        service_context={"aws:tagkeys": None} | {key.lower(): value for key, value in request["keys"].items()},
    )
    print(evaluate(context, [parse_policy_document(request["policy"])]).decision)
