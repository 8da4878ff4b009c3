# Completes commands and options of `python -m store`, `extract`, `train` and `evaluate`: source docs/completion.bash
# In zsh, run this before: autoload -U +X bashcompinit && bashcompinit
_mmkd_completion() {
  case "${COMP_WORDS[1]} ${COMP_WORDS[2]}" in
    "-m store" | "-m extract" | "-m train" | "-m evaluate") ;;
    *) return 0 ;;
  esac
  local IFS=$'\n'
  COMPREPLY=($(env COMP_WORDS="${COMP_WORDS[*]:2}" COMP_CWORD=$((COMP_CWORD - 2)) \
    _MMKD_COMPLETE=complete_bash "$1" -m "${COMP_WORDS[2]}" 2> /dev/null))
}
complete -o default -F _mmkd_completion python python3 .venv/bin/python
