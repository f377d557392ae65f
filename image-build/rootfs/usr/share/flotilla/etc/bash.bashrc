# Interactive shells.
[ -z "$PS1" ] && return
shopt -s checkwinsize
PS1='\u@\h \w \$ '
alias ls='ls --color=auto' ll='ls -l' grep='grep --color=auto'
