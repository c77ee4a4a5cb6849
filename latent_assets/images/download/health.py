"""What the outcomes of a shard say about the fetch as a whole: dead links, or a fault on our side.

The thresholds are the profile's; the check that blocks on them is not here.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from latent_assets.images.outcome import NETWORK, OUTCOME_OF, Outcome, Reason

if TYPE_CHECKING:
    from latent_assets.profile import Fetch

_FAULT_BELOW = 0.10
_FAULT_SHARE = 0.5
_FEWEST_ROWS = 20
# for a leading reason that a key of the profile decides
_REMEDIES: dict[str, str] = {
    Reason.PRIVATE_ADDRESS: "Servers of your own network are asked when `fetch.allow_origins` of the profile names "
    'their scheme, host and port: ["http://192.168.1.20:8080"]',
}


@dataclass(frozen=True)
class Health:
    """`ok`, `warn` (below `fetch.warn_success`) or `fail` (below `fetch.min_success`), and a sentence that says why.

    `success` is the share of rows with an image among those that may be had: rows whose publisher opted out are not
    counted. `leading` is the most frequent other reason.
    """

    level: Literal["ok", "warn", "fail"]
    success: float
    leading: str
    message: str


def health_of(settings: Fetch, reasons: Mapping[str, int]) -> Health:
    """Judge the counts of a shard's reasons."""
    rows = sum(count for key, count in reasons.items() if OUTCOME_OF[Reason(key)] is not Outcome.OPTED_OUT)
    opted_out = sum(reasons.values()) - rows
    failures = {key: count for key, count in reasons.items() if key != Reason.OK}
    leading = max(failures, key=lambda key: failures[key], default="")
    ok = reasons.get(Reason.OK, 0)
    success = ok / rows if rows else 1.0
    level: Literal["ok", "warn", "fail"] = "ok"
    if success < settings.min_success:
        level = "fail"
    elif success < settings.warn_success:
        level = "warn"
    message = f"{ok} of {rows} rows have an image ({success:.1%})" if rows else "there are no rows"
    if opted_out:
        message += f", {opted_out} more opted out"
    if leading:
        message += f"; the leading other reason is `{leading}` ({failures[leading]} rows)"
    if leading in _REMEDIES:
        message += f". {_REMEDIES[leading]}"
    if fault := _network_fault(rows, success, failures):
        return Health(level, success, leading, f"{message}. {fault}")
    if level != "ok":
        key = "min_success" if level == "fail" else "warn_success"
        message += f". This is below `fetch.{key}` = {getattr(settings, key):g}"
    return Health(level, success, leading, message + ".")


def _network_fault(rows: int, success: float, failures: Mapping[str, int]) -> str:
    """Links die one by one; when nearly all fail for reasons of the network, it is the network."""
    network = {key: count for key, count in failures.items() if key in NETWORK}
    if rows < _FEWEST_ROWS or success >= _FAULT_BELOW or sum(network.values()) < _FAULT_SHARE * rows:
        return ""
    reason = max(network, key=lambda key: network[key])
    proxies = sorted(name for name in os.environ if name.lower() in ("http_proxy", "https_proxy", "all_proxy"))
    hint = (
        f" This machine is set to use a proxy ({', '.join(proxies)}), which the fetcher does not: the addresses it "
        "connects to are checked."
        if proxies
        else ""
    )
    return (
        f"So few successes, with `{reason}` in {network[reason]} rows, are a sign of a fault of the network, the name "
        f"server or a firewall here rather than of dead links: check that, then fetch again with "
        f"retry={sorted(network)}.{hint}"
    )
