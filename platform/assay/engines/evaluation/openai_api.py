"""An OpenAI-compatible server of somebody else's: what it says of itself."""

import json
import urllib.error
import urllib.request

from assay.errors import PlaceError, UsageError

TIMEOUT_S = 30


def models(url: str, api_key: str) -> dict[str, dict[str, object]]:
    """The models that the server at `url` (ending in `/v1`) offers, by name, with what it says of
    each. Raises `PlaceError` when it does not answer, and `UsageError` when it answers something
    else."""
    request = urllib.request.Request(
        f"{url}/models", headers={"Authorization": f"Bearer {api_key}"}
    )
    try:
        with urllib.request.urlopen(request, timeout=TIMEOUT_S) as answer:
            said = json.loads(answer.read())
        return {str(entry["id"]): dict(entry) for entry in said["data"]}
    except urllib.error.HTTPError as error:
        if error.code in (401, 403):
            hint = "; --api-key-env names the variable that holds its key"
        else:
            hint = ""
        raise PlaceError(f"{url}/models said {error.code} {error.reason}{hint}") from error
    except OSError as error:
        raise PlaceError(
            f"no server answers at {url} ({error}); write the base of its API, ending in /v1"
        ) from error
    except (ValueError, KeyError, TypeError) as error:
        raise UsageError(
            f"{url}/models is no OpenAI-compatible list of models; write the base, ending in /v1"
        ) from error
