# Completes mcp-guard in bash; made by: mcp-guard completion bash

_mcp_guard_rows() { # sets rows: WORD|TAKES|ABOUT for each word that may follow these
  rows=
  case "$1" in
@CASES@
  esac
}

_mcp_guard_takes() { # sets takes: what this word is or wants after it, here
  local word about rest
  takes=
  while IFS='|' read -r word rest about; do
    [[ $word == "$1" ]] && takes=$rest && return
  done <<<"$rows"
}

_mcp_guard() {
  local at= rows takes wants= option= config= cur=${COMP_WORDS[COMP_CWORD]} last= word kind about words=() i position=1
  _mcp_guard_rows ""
  for ((i = 1; i < COMP_CWORD; i++)); do
    word=${COMP_WORDS[i]}
    if [[ $word == = ]]; then
      wants=$last
    elif [[ -n $wants ]]; then
      [[ $option == --config ]] && config=${word/#\~\//$HOME/}
      wants=
    else
      _mcp_guard_takes "$word"
      case $takes in
        command) at="${at:+$at }$word" && _mcp_guard_rows "$at" ;;
        flag | '') [[ $word == -* ]] || ((position++)) ;;
        *) [[ $word == --* ]] && wants=$takes option=$word ;;
      esac
      last=$wants
    fi
  done
  [[ $cur == = ]] && cur=
  if [[ -z $wants ]]; then
    while IFS='|' read -r word kind about; do
      if [[ $cur == -* ]]; then
        [[ $word == --* ]] && words+=("$word")
      elif [[ $kind == command ]]; then
        words+=("$word")
      elif [[ $word == "$position" || $word == '*' ]]; then
        wants=$kind
      fi
    done <<<"$rows"
  fi
  case $wants in
    file) compopt -o default 2>/dev/null || words=($(compgen -f -- "$cur")) ;;
    folder) compopt -o dirnames 2>/dev/null || words=($(compgen -d -- "$cur")) ;;
    =*) words=(${wants#=}) ;;
    @*) words=($("${COMP_WORDS[0]}" completion "${wants#@}" ${config:+--config "$config"} 2>/dev/null)) ;;
  esac
  COMPREPLY=($(compgen -W "${words[*]}" -- "$cur"))
}

complete -F _mcp_guard mcp-guard
