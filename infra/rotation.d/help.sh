# shellcheck shell=bash
# The texts of --help, and how the command ends.

is_command() {
  case $1 in
    status | rotate | verify | rollback | revoke | abort | compromise | restore | forget | put | doctor | sweep) ;;
    report | deliver | setup | retire) ;;
    *) return 1 ;;
  esac
}

fail() {
  printf 'rotation: %s\n' "$2" >&2
  exit "$1"
}

usage() {
  local of=''
  if is_command "$command"; then of="$command "; fi
  printf 'rotation: %s\nrotation %s--help shows how.\n' "$1" "$of" >&2
  exit 2
}

# The help of one command, or of all.
help() {
  if [ -n "$1" ] && ! is_command "$1"; then usage "$1 is not a command"; fi
  case $1 in
    '') help_all ;;
    status | verify | doctor | sweep | report) help_look "$1" ;;
    put | setup) help_values "$1" ;;
    *) help_change "$1" ;;
  esac
}

help_all() {
  cat <<'END'
Usage: rotation COMMAND [NAME] [options]

Look:
  status [NAME]      versions, policy, schedule, overlap, last failure; without NAME all secrets
  verify NAME        proves that the current value works
  doctor NAME        finds what keeps rotations from working, and says how to repair it
  sweep              checks all secrets now
  report             owners, dates, what is overdue
Change:
  rotate NAME        rotates now; --wait follows the four steps, and the delivery
  rollback NAME      makes the previous value current again
  revoke NAME        ends the overlap of a token now
  abort NAME         gives up a rotation that does not end
  compromise NAME    replaces a value that has leaked
  restore NAME       puts missing keys back
  forget NAME KEY …  gives missing keys up
  retire NAME        removes keys that no row needs
  deliver NAME       brings the value to its consumers now
  put NAME [MEMBER]  stores a value that a person rotates, from standard input
  setup [NAME …]     a stack's first day

Options:
  --stack NAME       the CloudFormation stack (ROTATION_STACK)
  --functions-prefix TEXT, --name-prefix TEXT, --log-group NAME
                     instead of a stack: what its functions' and secrets' names begin with, and its log
                     (ROTATION_FUNCTIONS_PREFIX, ROTATION_NAME_PREFIX, ROTATION_LOG_GROUP)
  --profile NAME, --region NAME, --endpoint URL
                     as of the AWS CLI (AWS_PROFILE, AWS_REGION, AWS_ENDPOINT_URL). With an endpoint
                     and no stack, the functions have the names of the sandbox
  --reason TEXT      why, for the record
  -y, --yes          do not ask for confirmation (ROTATION_YES=1)
  --json             the answer as JSON
  --help             with a COMMAND: how to use it, with an example

NAME is a secret's name or ARN. In a stack, `admin-token` stands for the stack's secret of that name.

Exit codes: 0 done · 1 refused or failed · 2 wrong usage · 3 a program, the stack or a setting is missing ·
4 done, and something needs attention · 5 not finished yet · 6 not confirmed
END
}

help_look() {
  case $1 in
    status) cat <<'END' ;;
Usage: rotation status [NAME] [--json]
With NAME: versions, policy, schedule, overlap, keys and the last failure. Without: a table of all secrets.

  rotation status shop/production/admin-token
END
    verify) cat <<'END' ;;
Usage: rotation verify NAME [--json]
Proves the current value, as a rotation does before it promotes one. Exit code 4: nothing could prove it.

  rotation verify shop/production/admin-token
END
    doctor) cat <<'END' ;;
Usage: rotation doctor NAME [--json]
Checks labels, permissions, policy, value and application. Exit code 4: it found something; each finding has its repair.

  rotation doctor shop/production/admin-token
END
    sweep) cat <<'END' ;;
Usage: rotation sweep [--json]
Does now what the stack does every hour: checks all secrets, and ends overlaps that are over. Exit code 4: something
needs attention.

  rotation sweep --json | jq .overdue
END
    report) cat <<'END' ;;
Usage: rotation report [--json | --html] [--from PLACE]
Owners, dates, and what is overdue, of all secrets. --html prints a page for the review, with who read what. Exit
code 4: there are more than 10,000 secrets; it prints the PLACE for the next report.

  rotation report --html > report.html
END
  esac
}

help_values() {
  case $1 in
    put) cat <<'END' ;;
Usage: rotation put NAME [MEMBER] [--reason TEXT] < FILE
       rotation put NAME --env FILE [--reason TEXT]
Stores a value that a person rotates: MEMBER of a JSON secret, or the whole of a text secret. The value comes from
standard input, without the last line break; on a terminal it is typed, and not shown. --env takes all members from a
file `NAME=value`. Members that a function rotates are refused. `rollback` takes the value back where nobody rotates the
secret; where a function rotates another member, put the old value again.

  rotation put shop/production/providers OPENAI_API_KEY --reason 'quarterly, ticket 4720' < new-key.txt
END
    setup) cat <<'END' ;;
Usage: rotation setup [NAME …] [--env FILE [--into NAME]] [--reason TEXT]
A stack's first day. Rotates managed secrets that are still empty, imports an .env file, verifies, and prints a table.
Without NAME it covers all secrets of the stack. --env imports each variable into the secret of its name
(OPENAI_API_KEY into PREFIX/openai-api-key); with --into all of them into one JSON secret. The file may have comments,
quotes, `export` and values of several lines. Placeholders, empty values and what a function rotates are skipped and
told. The secrets have to exist. Exit code 4: something is left to do.

  rotation setup --env .env --into shop/staging/providers --reason 'first day'
END
  esac
}

help_change() {
  case $1 in
    rotate) cat <<'END' ;;
Usage: rotation rotate NAME [--wait] [--timeout SECONDS] [--yes] [--json]
Rotates now. --wait follows the four steps, and shows the error and its repair when one fails. Of a secret with
consumers it follows the delivery, too. Exit codes: 1 a step failed, 4 a consumer failed, 5 not finished after --timeout
(600), or not to be followed.

  rotation rotate shop/production/admin-token --wait
END
    rollback) cat <<'END' ;;
Usage: rotation rollback NAME --reason TEXT [--yes] [--json]
Makes the previous value current again, in a new version: the one before a rotation, or before a `put` where nobody
rotates the secret.

  rotation rollback shop/production/admin-token --reason 'the new token breaks the importer, ticket 4712'
END
    revoke) cat <<'END' ;;
Usage: rotation revoke NAME --reason TEXT [--yes] [--json]
Ends the overlap of a token now, and proves that every instance refuses the previous one.

  rotation revoke shop/production/admin-token --reason 'ticket 4713'
END
    abort) cat <<'END' ;;
Usage: rotation abort NAME --reason TEXT [--yes] [--json]
Gives up a rotation that does not end.

  rotation abort shop/production/admin-token --reason 'ticket 4714'
END
    compromise) cat <<'END' ;;
Usage: rotation compromise NAME --reason TEXT [--yes] [--json]
Use it when a value has leaked. Until it has answered, the leaked value is still accepted. If it ends with an error,
send it again.

  rotation compromise shop/production/admin-token --reason 'in a log, ticket 4711'
END
    restore) cat <<'END' ;;
Usage: rotation restore NAME --reason TEXT [--yes] [--json]
Puts keys back that another program's write removed from a keyring.

  rotation restore shop/production/encryption-key --reason 'ticket 4715'
END
    forget) cat <<'END' ;;
Usage: rotation forget NAME KEY … --reason TEXT [--yes] [--json]
Gives missing keys up: rows under them stay unreadable. It requires the ids of all missing keys; `doctor` names them.

  rotation forget shop/production/encryption-key 3a67c963 36afee71 --reason 'ticket 4716'
END
    retire) cat <<'END' ;;
Usage: rotation retire NAME [--yes] [--json]
       rotation retire NAME FIRST SECOND --reason TEXT
Starts the state machine that re-encrypts rows, counts them twice, and removes keys that no row needs. With two files,
answers of `reencrypt` to `census`, it removes the keys at once.

  rotation retire shop/production/encryption-key
END
    deliver) cat <<'END' ;;
Usage: rotation deliver NAME [--wait] [--timeout SECONDS] [--yes] [--json]
       rotation deliver NAME --dry-run [--json]
Brings the current value to its consumers now, and shows who lacks it. --wait runs again until nothing is
pending. --dry-run says what a run would do. Exit codes: 4 a consumer failed, and the repair is shown; 5 a consumer is
pending.

  rotation deliver shop/production/encryption-key --wait
END
  esac
}
