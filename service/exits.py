"""Exit codes, and which failure has which: 69 and 78 are from sysexits.h."""

from typing import Final

FAILED: Final = 1
UNAVAILABLE: Final = 69
CONFIGURATION: Final = 78


def of(error: Exception) -> tuple[int, list[str]] | None:
    """The exit code and what to say; None for what nobody foresaw."""
    # Here, because nobody waits for them until something fails.
    from service.domain.errors import DatabaseUnavailable, DomainError, NotReady
    from service.domain.keys import MasterKeyMismatch
    from service.rpc.certificate import Unusable
    from service.settings import SettingsError
    from service.store.capacity import TooFewConnections

    match error:
        case SettingsError():
            return CONFIGURATION, error.problems
        case DatabaseUnavailable():
            return UNAVAILABLE, [str(error)]
        case NotReady():
            return FAILED, ["the schema is behind: run `sixfold migrate up`"]
        case DomainError():
            return FAILED, [each.description for each in error.violations] or [str(error)]
        case MasterKeyMismatch():
            why = f"SIXFOLD_MASTER_KEY is not the one the keys were sealed with: {error}"
            return CONFIGURATION, [why]
        case Unusable():
            return CONFIGURATION, [f"SIXFOLD_TLS_CERTIFICATE, SIXFOLD_TLS_KEY: {error}"]
        case TooFewConnections():
            return CONFIGURATION, [str(error)]
        case OSError():
            return FAILED, [str(error)]
    return None
