# shellcheck shell=bash
# put: values, from standard input to the function. A value is in variables of this shell and in pipes only: never in an
# argument of a program, in its environment, in a file, in jq or in output. So there are no here-strings with values:
# older Bash writes those to files.

# $1 as a JSON string, in $json. The name of the secret's member goes the same way.
json_string() {
  local LC_ALL=C text=$1 code character escaped
  text=${text//\\/\\\\}
  text=${text//\"/\\\"}
  text=${text//$'\n'/\\n}
  text=${text//$'\r'/\\r}
  text=${text//$'\t'/\\t}
  case $text in
    *[[:cntrl:]]*)
      for code in 1 2 3 4 5 6 7 8 11 12 14 15 16 17 18 19 20 21 22 23 24 25 26 27 28 29 30 31; do
        printf -v escaped '\\u%04x' "$code"
        printf -v character %b "\\0$(printf %o "$code")"
        text=${text//"$character"/$escaped}
      done
      ;;
  esac
  json=\"$text\"
}

# The function's answer to what is not UTF-8 would show a part of it.
require_utf8() {
  if command -v iconv >/dev/null; then
    printf '%s' "$1" | iconv -f UTF-8 -t UTF-8 >/dev/null 2>&1 || fail 2 "$2 is not UTF-8 text: encode it in base64"
    return
  fi
  local LC_ALL=C
  case $1 in
    *[!\ -~$'\n\r\t']*) fail 2 "$2 has other characters than ASCII, and iconv, which checks them, is missing" ;;
  esac
}

# The AWS CLI's history keeps every request, if it is switched on.
refuse_history() {
  capture aws_cli configure get cli_history || return 0
  if [ "$captured_out" = enabled ]; then
    fail 3 'the history of the AWS CLI would keep the value: set cli_history = disabled in ~/.aws/config'
  fi
}

# A line from the terminal, in $value. A terminal passes on no more than 4095 bytes of a line. What follows the first line
# of a pasted text would be typed into the shell, so it is read and refused.
read_typed() {
  local LC_ALL=C line several=false
  # Before the prompt: what is pasted at once would be shown.
  terminal=$(stty -g)
  trap 'stty "$terminal"' EXIT
  stty -echo
  printf 'Value (it is not shown): ' >&2
  IFS= read -rs value
  if IFS= read -rs -t 1 -n 1 line; then
    several=true
    while IFS= read -rs -t 1 -n 1000 line; do :; done
  fi
  stty "$terminal"
  trap - EXIT
  printf '\n' >&2
  if $several || [ ${#value} -ge 4095 ]; then
    fail 2 'the value has several lines, or is longer than a terminal passes on: use < FILE'
  fi
}

# The value from standard input, in $value, without its last line break.
read_value() {
  local newline=$'\n'
  value=''
  if [ -t 0 ]; then
    read_typed
  elif IFS= read -r -d '' value; then
    fail 2 'the value has a NUL byte: encode it in base64'
  fi
  value=${value%"$newline"}
  value=${value%$'\r'}
  [ -n "$value" ] || fail 2 'the value is empty'
  require_utf8 "$value" 'the value'
}

# Sends `put`. Its request has "members", an object of texts, or "value", the whole of a text secret.
# $2 is that member with its value, as JSON.
send_put() {
  local head
  head=$(request_of put "$1")
  invoke "$operate" "${head%\}},$2}"
}

# The variables of a file that put stores, as "members", in $members.
members_of_file() {
  local i separator=''
  members='"members":{'
  for ((i = 0; i < ${#env_names[@]}; i++)); do
    [ -z "${env_skipped[i]}" ] || continue
    json_string "${env_names[i]}"
    members=$members$separator$json:
    json_string "${env_values[i]}"
    members=$members$json
    separator=,
  done
  members="$members}"
  [ -n "$separator" ]
}

put() {
  local name member=${arguments[1]:-} skips=false
  name=$(full_name "${arguments[0]}")
  if [ -n "$env_file" ]; then
    [ -z "$member" ] || usage 'put takes a MEMBER, or --env FILE'
    read_dotenv "$env_file"
    tell_dotenv
    if env_lacks; then skips=true; fi
    members_of_file || fail 2 "$env_file has nothing to put"
  else
    read_value
    json_string "$value"
    value=''
    if [ -n "$member" ]; then
      require_utf8 "$member" 'MEMBER'
      members=$json
      json_string "$member"
      members="\"members\":{$json:$members}"
    else
      members="\"value\":$json"
    fi
    json=''
  fi
  refuse_history
  confirm "Store a new value in $name${member:+, member $member}" "$name"
  ask_reason
  send_put "$name" "$members"
  members=''
  refuse_error
  show put
  if $skips; then exit 4; fi
}
