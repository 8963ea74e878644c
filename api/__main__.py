"""The API process: `python -m api`."""

from api.app import create_app
from api.server.serve import serve
from api.web import logs
from domain.settings import load_settings


def main() -> None:
    """Serve until SIGINT or SIGTERM."""
    settings = load_settings()
    app = create_app(settings)
    logs.configure(settings.log_level)
    serve(app, settings)


if __name__ == "__main__":
    main()
