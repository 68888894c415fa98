# shellcheck shell=bash
# deliver: brings a value to its consumers, and follows it.

# The time between two runs, in seconds.
between_runs=5

# Whether the stack waits for consumers of $1. The answer before stays in $answer.
has_consumers() {
  local before=$answer status=1
  [ -n "$deliver" ] || return 1
  invoke "$operate" "$(request_of status "$1")"
  if is_true '.delivery?'; then status=0; fi
  answer=$before
  return "$status"
}

# Runs `deliver` for $1: once, or with --wait until nothing is pending. Its answer is in $answer.
deliver_and_follow() {
  local asked told='' lines
  asked=$(jq -nc --arg secret_id "$1" --argjson dry_run "$dry_run" '{$secret_id} + (if $dry_run then {$dry_run} else {} end)')
  while :; do
    ask_function "$deliver" "$asked"
    if $wait && ! $as_json; then
      lines=$(consumers_told)
      print_news "$told" "$lines"
      told=$lines
    fi
    is_true '.pending == 0' && return
    if ! $wait || [ $((SECONDS - began + between_runs)) -gt "$timeout" ]; then return; fi
    sleep "$between_runs"
  done
}

# A line for each consumer.
consumers_told() {
  cells '.secrets[].consumers[] | "\(.consumer | clean) \(.state)" + (if .reason then ": \(.reason | clean)" else "" end)'
}

# Prints the lines of $2 that are not in $1.
print_news() {
  local line
  printf '%s\n' "$2" | while IFS= read -r line; do
    case $'\n'$1$'\n' in
      *$'\n'"$line"$'\n'*) ;;
      *) printf '  %4s s  %s\n' "$((SECONDS - began))" "$line" ;;
    esac
  done
}

# shellcheck disable=SC2016 # The variables are jq's.
show_delivery() {
  if ! $wait && is_true '[.secrets[].consumers[]] != []'; then
    cells '["CONSUMER", "STATE", "REASON"], (.secrets[].consumers[]
      | [.consumer, .state, ([.error, .reason] | map(select(. != null)) | join(": "))]) | row' | table
  fi
  cells '.secrets[].consumers[] | select(.repair) | "repair of \(.consumer | clean): \(.repair | clean)"'
  cells '.secrets[] | "\(.secret | clean): \(.state)"
    + (if .since then ", not delivered since \(.since)" else "" end) + (if .late then ", LATE" else "" end)
    + (if .reason then "; \([.error, .reason] | map(select(. != null)) | join(": ") | clean)" else "" end)'
}

# The last lines for people, and the exit code.
end_delivery() {
  if ! $as_json; then show_delivery; fi
  is_true '.failed == 0' || exit 4
  is_true '.pending == 0' || exit 5
  exit 0
}

deliver_value() {
  local name
  name=$(full_name "${arguments[0]}")
  [ -n "$deliver" ] || fail 3 'this stack has no consumers: deploy it with Consumers'
  if ! $dry_run; then confirm "Deliver $name; services that need it are deployed anew" "$name"; fi
  began=$SECONDS
  deliver_and_follow "$name"
  if $as_json; then printf '%s' "$answer" | jq .; fi
  end_delivery
}
