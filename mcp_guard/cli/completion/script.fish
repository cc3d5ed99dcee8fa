# Completes mcp-guard in fish; made by: mcp-guard completion fish

function __mcp_guard_rows # WORD|TAKES|ABOUT for each word that may follow these
  switch "$argv[1]"
@CASES@
  end
end

function __mcp_guard_takes # what this word (the first argument) is or wants after it, by these rows
  for row in $argv[2..]
    set -l fields (string split -m 2 '|' -- $row)
    if test "$fields[1]" = "$argv[1]"
      echo $fields[2]
      return
    end
  end
end

function __mcp_guard
  set -l typed (commandline -opc)
  set -l cur (commandline -ct)
  set -l at
  set -l wants
  set -l option
  set -l config
  set -l position 1
  set -l rows (__mcp_guard_rows '')
  for word in $typed[2..]
    if test -n "$wants"
      test "$option" = --config; and set config --config (string replace -r '^~/' "$HOME/" -- $word)
      set wants
      continue
    end
    set -l takes (__mcp_guard_takes $word $rows)
    switch "$takes"
      case command
        set at $at $word
        set rows (__mcp_guard_rows "$at")
      case flag ''
        string match -q -- '-*' $word; or set position (math $position + 1)
      case '*'
        if string match -q -- '--*' $word
          set wants $takes
          set option $word
        end
    end
  end
  set -l before
  if test -z "$wants"; and string match -q -- '--*=*' $cur
    set -l parts (string split -m 1 = -- $cur)
    set wants (__mcp_guard_takes $parts[1] $rows)
    set before $parts[1]=
    set cur $parts[2]
  else if test -z "$wants"
    for row in $rows
      set -l fields (string split -m 2 '|' -- $row)
      if string match -q -- '-*' $cur
        string match -q -- '--*' $fields[1]; and printf '%s\t%s\n' $fields[1] $fields[3]
      else if test "$fields[2]" = command
        printf '%s\t%s\n' $fields[1] $fields[3]
      else if contains -- $fields[1] $position '*'
        set wants $fields[2]
      end
    end
  end
  switch "$wants"
    case file
      __fish_complete_path $cur | string replace -r -- '^' "$before"
    case folder
      __fish_complete_directories $cur '' | string replace -r -- '^' "$before"
    case '=*'
      string sub -s 2 -- $wants | string split ' ' | string replace -r -- '^' "$before"
    case '@*'
      command $typed[1] completion (string sub -s 2 -- $wants) $config 2>/dev/null | string replace -r -- '^' "$before"
  end
end

complete -c mcp-guard -f -a '(__mcp_guard)'
