"""The page of `midway-zoo app` as a Hugging Face Space: this folder is all that such a repository needs."""

import threading

from midway_zoo.app.server import serving
from midway_zoo.app.settings import AppSettings

# Visitors choose among these and the zoo's released models. `any_model` stays off: a stranger is not to make this
# machine load any file or repository.
SETTINGS = AppSettings(models=("midway_nano.scenes", "midway_vits.bdd100k"), queue=8)


def main() -> None:
    """Serve until the Space is stopped; it listens where Spaces expect it."""
    with serving(SETTINGS, host="0.0.0.0", port=7860):
        threading.Event().wait()


if __name__ == "__main__":
    main()
