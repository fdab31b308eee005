# Environment of every node, for `ray start` and for who logs in. `ray up` copies the file that holds the token.
export PATH="$HOME/sttn-ray/venv/bin:$PATH"
export RAY_AUTH_MODE=token
export RAY_AUTH_TOKEN_PATH="$HOME/.ray/auth_token"
export RAY_USAGE_STATS_ENABLED=0
