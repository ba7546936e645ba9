"""Detection on many machines, by Ray."""

import os
from pathlib import Path

# Ray reads how to authenticate when it is imported, and without this sends no token where there is
# one, so that a cluster that was started with it refuses.
if os.environ.get("RAY_AUTH_TOKEN") or (Path.home() / ".ray" / "auth_token").is_file():
    os.environ.setdefault("RAY_AUTH_MODE", "token")
# Its processes tell on stderr what we tell.
os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")
