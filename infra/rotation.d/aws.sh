# shellcheck shell=bash
# How the command talks to AWS, and how it finds the stack's functions.

# What a command prints, in captured_out and captured_err; its exit code. No file takes part.
capture() {
  local status
  {
    IFS= read -r -d '' captured_err
    IFS= read -r -d '' captured_out
    IFS= read -r -d '' status
  } < <(
    {
      captured_out=$("$@")
      printf '\0%s\0%s\0' "$captured_out" "$?"
    } 2>&1
  )
  return "$status"
}

require_programs() {
  local version
  command -v aws >/dev/null || fail 3 \
    'the AWS CLI is missing: https://docs.aws.amazon.com/cli/latest/userguide/getting-started-install.html, or pip install awscli'
  command -v jq >/dev/null || fail 3 'jq is missing: apt install jq, dnf install jq, or brew install jq'
  version=$(jq --version 2>/dev/null)
  case ${version#jq-} in
    0.* | 1.[0-5] | 1.[0-5][.r_-]*) fail 3 "$version is too old: install jq 1.6 or later" ;;
  esac
}

# The AWS CLI, with this command's options. Version 1 does not read AWS_REGION, and version 2 prints local times.
aws_cli() {
  local options=(--output json)
  if [ -n "$profile" ]; then options+=(--profile "$profile"); fi
  if [ -n "$region" ]; then options+=(--region "$region"); fi
  if [ -n "$endpoint" ]; then options+=(--endpoint-url "$endpoint"); fi
  AWS_PAGER='' AWS_CLI_AUTO_PROMPT=off TZ=UTC command aws "${options[@]}" "$@"
}

# What the AWS CLI complained of, with what to do about it.
complain() {
  local complaint
  complaint=$(printf '%s' "$captured_err" | sed -e '/^[[:space:]]*$/d')
  case $complaint in
    *'locate credentials'* | *ExpiredToken* | *'session has expired'* | *'refresh failed'*)
      complaint="$complaint
Sign in: set AWS_PROFILE, then aws sso login or aws configure."
      ;;
    *'specify a region'*) complaint="$complaint
Set AWS_REGION." ;;
    *AccessDenied*) complaint="$complaint
Your role needs the stack's OperatorPolicyArn." ;;
  esac
  fail_of_aws "${1:-}" "${complaint:-the AWS CLI failed and did not say why}"
}

# A call whose answer is in captured_out. It ends the command when AWS refuses.
aws_json() {
  capture aws_cli "$@" || complain
}

invoke_function() {
  printf '%s' "$request" | AWS_MAX_ATTEMPTS=1 aws_cli lambda invoke --cli-read-timeout 910 --function-name "$1" \
    --payload fileb:///dev/stdin /dev/fd/3 3>&1 >/dev/null
}

# Invokes a function; the answer is in $answer. Without AWS_MAX_ATTEMPTS=1 the CLI would send a request again that is
# under way. No function runs longer than 900 seconds; a connection that died would be waited for without end.
invoke() {
  request=$2
  capture invoke_function "$1" || complain
  answer=$captured_out
  request=''
  # jq 1.6 finds everything true of an empty text.
  [ -n "$answer" ] || fail_of_aws '' "$1 gave no answer"
}

# Whether the answer is an error. That of a function that ran into its timeout may have no type.
is_error() {
  ! is_true 'type == "object" and (has("errorType") or has("errorMessage") | not)' 2>/dev/null
}

# The error, for people.
error_told() {
  printf '%s' "$answer" | jq -r '"\(.errorType // "no answer"): \(.errorMessage // "" | tostring | gsub("[[:cntrl:]]"; "?"))"' 2>/dev/null ||
    printf 'no answer that can be read'
}

# Invokes a function, and ends the command when it answers with an error.
ask_function() {
  invoke "$1" "$2"
  refuse_error
}

# Ends the command when the answer is an error.
refuse_error() {
  is_error || return 0
  if $as_json; then printf '%s\n' "$answer"; fi
  fail_of_aws '' "$(error_told)"
}

# Ends the command. What goes on has not failed.
fail_of_aws() {
  local code=${1:-1} told=$2
  if [ -n "$goes_on" ]; then
    code=5
    told="$told
$goes_on"
  fi
  fail "$code" "$told"
}

# A request about one secret. Those that cannot be undone repeat its name.
request_of() {
  jq -nc --arg action "$1" --arg secret_id "$2" --arg reason "$reason" '
    {$action, $secret_id}
    + (if $reason == "" then {} else {$reason} end)
    + (if ["compromise", "restore", "forget"] | index($action) then {confirm: $secret_id} else {} end)'
}

describe() {
  aws_json secretsmanager describe-secret --secret-id "$1"
  # shellcheck disable=SC2034 # The callers read it.
  description=$captured_out
}

# An output of the stack; nothing when it has none of that name.
output() {
  [ -n "${outputs:-}" ] || return 0
  printf '%s' "$outputs" | jq -r --arg key "$1" '[.[] | select(.OutputKey == $key).OutputValue][0] // ""'
}

# The names of the stack's functions: from its outputs, by their prefix, or those of the sandbox.
find_functions() {
  outputs=''
  if [ -n "$functions_prefix" ]; then
    operate=${functions_prefix}operate
    sweep=${functions_prefix}sweep
    deliver=${functions_prefix}deliver
  elif [ -n "$stack" ]; then
    find_stack
  elif [ -n "$endpoint${AWS_ENDPOINT_URL:-}" ]; then
    operate=operate
    sweep=operate
    deliver=deliver
  else
    fail 3 'which stack? Name it with --stack, or in ROTATION_STACK; aws cloudformation list-stacks shows them'
  fi
}

find_stack() {
  capture aws_cli cloudformation describe-stacks --stack-name "$stack" --query 'Stacks[0].Outputs' || complain 3
  outputs=$captured_out
  operate=$(output OperateFunction)
  sweep=$(output SweepFunction)
  deliver=$(output DeliverFunction)
  if [ -z "$name_prefix" ]; then name_prefix=$(output SecretNamePrefix); fi
  if [ -z "$log_group" ]; then log_group=$(output AuditLogGroup); fi
  if [ -z "$operate" ] || [ -z "$sweep" ]; then
    fail 3 "stack $stack has no outputs OperateFunction and SweepFunction: is it a stack of this project?"
  fi
}

# A secret's name: of an ARN, or of what follows the stack's prefix.
full_name() {
  local name=$1
  case $name in
    arn:*:secret:*)
      name=${name#*:secret:}
      name=${name%-??????}
      ;;
    */*) ;;
    *) name=$name_prefix$name ;;
  esac
  printf '%s' "$name"
}

# The log of a rotation function: the stack's, or the function's own.
log_of() {
  if [ -n "$log_group" ]; then
    printf '%s' "$log_group"
  else
    printf '/aws/lambda/%s' "${1##*:function:}"
  fi
}
