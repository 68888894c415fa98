# shellcheck shell=bash
# Reads a file of lines NAME=value, as dotenv does: comments, `export`, quotes, values of several lines. Nothing is
# expanded. What is told names lines and variables, never a value.

# The text of the file, in $rest. `-` is standard input.
read_file() {
  rest=''
  if [ "$1" = - ]; then
    if IFS= read -r -d '' rest; then fail 2 'the file has a NUL byte'; fi
  else
    if [ ! -r "$1" ] || [ -d "$1" ]; then fail 2 "$1 cannot be read"; fi
    if IFS= read -r -d '' rest <"$1"; then fail 2 "$1 has a NUL byte"; fi
  fi
  require_utf8 "$rest" "$1"
  rest=${rest#$'\xef\xbb\xbf'}
  rest=${rest//$'\r\n'/$'\n'}
}

# The next line of $rest, in $line.
next_line() {
  line=${rest%%$'\n'*}
  case $rest in
    *$'\n'*) rest=${rest#*$'\n'} ;;
    *) rest='' ;;
  esac
  number=$((number + 1))
}

trim_left() {
  trimmed=${1#"${1%%[![:space:]]*}"}
}

trim() {
  trim_left "$1"
  trimmed=${trimmed%"${trimmed##*[![:space:]]}"}
}

# The lines of a quoted value: up to the closing quote, which a backslash may escape in double quotes only.
read_quoted() {
  local quote=$1 text=$2 first=$number part last
  quoted=''
  while :; do
    case $text in
      *"$quote"*)
        part=${text%%"$quote"*}
        text=${text#*"$quote"}
        quoted=$quoted$part
        last=${part##*[!\\]}
        if [ "$quote" = '"' ] && [ $((${#last} % 2)) -eq 1 ]; then
          quoted=$quoted$quote
          continue
        fi
        trim "$text"
        case $trimmed in
          '' | '#'*) return 0 ;;
        esac
        fail 2 "$env_file, line $number: there is something after the closing quote"
        ;;
    esac
    [ -n "$rest" ] || fail 2 "$env_file, line $first: the quote is not closed"
    quoted=$quoted$text$'\n'
    next_line
    text=$line
  done
}

# What escapes in double quotes stand for, in $quoted.
unescape() {
  local text=$quoted part
  quoted=''
  while case $text in *\\*) true ;; *) false ;; esac do
    part=${text%%\\*}
    text=${text#*\\}
    case $text in
      n*) quoted=$quoted$part$'\n' ;;
      r*) quoted=$quoted$part$'\r' ;;
      t*) quoted=$quoted$part$'\t' ;;
      \\* | \"* | \$*) quoted=$quoted$part${text:0:1} ;;
      *) quoted=$quoted$part\\${text:0:1} ;;
    esac
    text=${text:1}
  done
  quoted=$quoted$text
}

# A value without quotes: up to a comment. A PEM block goes on to its end.
read_plain() {
  trim "$1"
  quoted=$trimmed
  case $quoted in
    '-----BEGIN '*)
      while case $quoted in *'-----END '*-----*) false ;; *) true ;; esac do
        [ -n "$rest" ] || fail 2 "$env_file, line $number: the PEM block has no end"
        next_line
        trim "$line"
        quoted=$quoted$'\n'$trimmed
      done
      ;;
  esac
  case $quoted in
    '#'*) quoted='' ;;
    *[[:space:]]'#'*) quoted=${quoted%%[[:space:]]#*} ;;
  esac
  trim "$quoted"
  quoted=$trimmed
}

# Why a value is not stored, in $skipped: it is empty, or stands for one that somebody has to fill in.
judge() {
  skipped=''
  shopt -s nocasematch
  case $1 in
    '') skipped='it is empty' ;;
    '<'*'>' | '{{'*'}}' | '...' | '…' | xxx* | changeme* | change-me* | change_me* | change\ me* | replace-me* | \
      replaceme* | replace_me* | your-* | your_* | todo* | tbd | placeholder* | dummy | example | secret | password)
      skipped='it is a placeholder'
      ;;
  esac
  shopt -u nocasematch
}

# The variables of a file: env_names, env_values, env_lines, and env_skipped with the reason where one is not stored.
read_dotenv() {
  local line='' number=0 text variable quoted trimmed i
  env_names=() env_values=() env_lines=() env_skipped=()
  read_file "$1"
  while [ -n "$rest" ]; do
    next_line
    trim_left "$line"
    case $trimmed in
      '' | '#'*) continue ;;
      export[[:space:]]*) trim_left "${trimmed#export}" ;;
    esac
    text=$trimmed
    trim "${text%%=*}"
    variable=$trimmed
    case $text in
      *=*) ;;
      *) fail 2 "$env_file, line $number: expected NAME=value" ;;
    esac
    case $variable in
      '' | *[!A-Za-z0-9_.-]* | [0-9]*) fail 2 "$env_file, line $number: expected a name of letters, digits, _, - and ." ;;
    esac
    take_variable "$variable" "$number" "${text#*=}"
  done
  [ ${#env_names[@]} -gt 0 ] || fail 2 "$env_file has no variables"
}

take_variable() {
  local variable=$1 at=$2 i skipped
  trim_left "$3"
  case $trimmed in
    \"*)
      read_quoted '"' "${trimmed#?}"
      unescape
      ;;
    \'*) read_quoted "'" "${trimmed#?}" ;;
    \`*) read_quoted '`' "${trimmed#?}" ;;
    *) read_plain "$3" ;;
  esac
  for ((i = 0; i < ${#env_names[@]}; i++)); do
    if [ "${env_names[i]}" = "$variable" ] && [ -z "${env_skipped[i]}" ]; then
      env_skipped[i]="line $at has it again"
    fi
  done
  env_names+=("$variable")
  env_values+=("$quoted")
  env_lines+=("$at")
  judge "$quoted"
  env_skipped+=("$skipped")
  quoted=''
}

# Says what is not stored, and why: also with --json, because the answer does not say it.
tell_dotenv() {
  local i
  for ((i = 0; i < ${#env_names[@]}; i++)); do
    [ -z "${env_skipped[i]}" ] ||
      printf 'rotation: %s, line %s: %s is skipped: %s\n' "$env_file" "${env_lines[i]}" "${env_names[i]}" "${env_skipped[i]}" >&2
  done
}

# Whether a variable is left for somebody to fill in. One that occurs again is not.
env_lacks() {
  local i
  for ((i = 0; i < ${#env_names[@]}; i++)); do
    case ${env_skipped[i]} in
      '' | *' has it again') ;;
      *) return 0 ;;
    esac
  done
  return 1
}
