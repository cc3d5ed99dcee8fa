#compdef mcp-guard
# Completes mcp-guard in zsh; made by: mcp-guard completion zsh

_mcp_guard_rows() { # sets rows: WORD|TAKES|ABOUT for each word that may follow these
  rows=
  case "$1" in
@CASES@
  esac
}

_mcp_guard() {
  local at= rows row wants= option= config= word takes i position=1
  local -a fields found
  _mcp_guard_rows ''
  for ((i = 2; i < CURRENT; i++)); do
    word=${(Q)words[i]}
    if [[ -n $wants ]]; then
      [[ $option == --config ]] && config=${word/#\~\//$HOME/}
      wants=
      continue
    fi
    takes=
    for row in "${(@f)rows}"; do
      fields=("${(@s:|:)row}")
      [[ $fields[1] == "$word" ]] && takes=$fields[2] && break
    done
    case $takes in
      command) at="${at:+$at }$word" && _mcp_guard_rows "$at" ;;
      flag | '') [[ $word == -* ]] || ((position++)) ;;
      *) [[ $word == --* ]] && wants=$takes option=$word ;;
    esac
  done
  if [[ -z $wants && $PREFIX == --*=* ]]; then
    for row in "${(@f)rows}"; do
      fields=("${(@s:|:)row}")
      [[ $fields[1] == "${PREFIX%%=*}" ]] && wants=$fields[2]
    done
    compset -P 1 '*='
  elif [[ -z $wants ]]; then
    for row in "${(@f)rows}"; do
      fields=("${(@s:|:)row}")
      if [[ $PREFIX == -* ]]; then
        [[ $fields[1] == --* ]] && found+=("${fields[1]}:${fields[3]}")
      elif [[ $fields[2] == command ]]; then
        found+=("${fields[1]}:${fields[3]}")
      elif [[ $fields[1] == "$position" || $fields[1] == '*' ]]; then
        wants=$fields[2]
      fi
    done
  fi
  case $wants in
    file) _files ;;
    folder) _files -/ ;;
    '='*) compadd -- ${=wants#=} ;;
    '@'*) compadd -- $("${words[1]}" completion "${wants#@}" ${config:+--config} ${config:+$config} 2>/dev/null) ;;
    *) (($#found)) && _describe 'mcp-guard' found ;;
  esac
}

if [[ $funcstack[1] == _mcp-guard ]]; then
  _mcp_guard "$@"
else
  compdef _mcp_guard mcp-guard
fi
