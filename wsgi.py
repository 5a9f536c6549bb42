"""The WSGI entry point: `gunicorn wsgi:app`; the `flask` command finds it by its name."""

from config import ConfigError
from webapp import create_app

try:
    app = create_app()
except ConfigError as error:
    # An operator's mistake deserves one line that names the setting, not a traceback.
    raise SystemExit(f"Configuration error: {error}") from None
