# Completion of the command `rotation` in Bash: source it, or put it into /etc/bash_completion.d.

_rotation() {
  local word=${COMP_WORDS[COMP_CWORD]} before=${COMP_WORDS[COMP_CWORD - 1]} command='' part
  local commands='status verify doctor sweep report rotate rollback revoke abort compromise restore forget retire deliver
    put setup help'
  local options='--stack --functions-prefix --name-prefix --log-group --profile --region --endpoint --reason --yes --json
    --help'
  COMPREPLY=()
  for part in "${COMP_WORDS[@]:1:COMP_CWORD-1}"; do
    case " ${commands//$'\n'/ } " in
      *" $part "*)
        command=$part
        break
        ;;
    esac
  done
  case $before in
    --env)
      # shellcheck disable=SC2207 # Bash 3.2 has no mapfile.
      COMPREPLY=($(compgen -f -- "$word"))
      return
      ;;
    --stack | --functions-prefix | --name-prefix | --log-group | --profile | --region | --endpoint | --reason | --into | --timeout | --from)
      return
      ;;
  esac
  case $command in
    rotate) options="$options --wait --timeout" ;;
    deliver) options="$options --wait --timeout --dry-run" ;;
    put) options="$options --env" ;;
    setup) options="$options --env --into" ;;
    report) options="$options --html --from" ;;
  esac
  case $word in
    -*) part=$options ;;
    *) part=$commands ;;
  esac
  if [ -n "$command" ] && [ "${word#-}" = "$word" ]; then return; fi
  # shellcheck disable=SC2207 # Bash 3.2 has no mapfile.
  COMPREPLY=($(compgen -W "$part" -- "$word"))
}

complete -F _rotation rotation
