"""When an asset is rebuilt without a hand: one condition, for all of them."""

from __future__ import annotations

import dagster as dg


def rebuild_when_due(depth: int) -> dg.AutomationCondition[dg.AssetKey]:
    """Rebuild what is missing, or made by other code or from other data, once everything before it has settled.

    `depth`: how many steps the asset is away from its farthest source.

    - `missing`, newly: a shard that the list grew by; on the first tick, everything that was never built.
      `on_missing()` of Dagster leaves out partitions that were there when it was switched on.
    - `code_version_changed`: a revision of a stage or a setting of the profile.
    - a parent's *data version* changed: not merely materialized again. One run records all shards of the catalog after
      the list changed; without this term each of them would be fetched and encoded for nothing.
    - `since` requested or updated: what triggers is remembered until it was acted on, however long that has to wait.
      A shard that failed is therefore not tried on every tick, but when something changes.
    - nothing before it is missing, failed, due or in progress, at any distance: a stage over all shards runs once for a
      batch of them, never per shard, and never on an old parent of one that failed. Looking at direct parents only, it
      would start between the run of one shard's images and the run of their embeddings. `will_be_requested()` does not
      do for "due": it is false for assets that cannot share a run, as shards and what is made of all of them.
    - not in progress itself: a run that takes longer than a tick is not started twice.
    """
    changed = (
        dg.AutomationCondition.missing().newly_true()
        | dg.AutomationCondition.code_version_changed()
        | dg.AutomationCondition.any_deps_match(dg.AutomationCondition.data_version_changed()).with_label(
            "a parent's data changed"
        )
    )
    acted_on = dg.AutomationCondition.newly_requested() | dg.AutomationCondition.newly_updated()
    due = changed.since(acted_on).with_label("due")
    unsettled = (
        dg.AutomationCondition.missing()
        | dg.AutomationCondition.execution_failed()
        | dg.AutomationCondition.in_progress()
        | due
    )
    before = dg.AutomationCondition.any_deps_match(unsettled)
    for _ in range(depth - 1):
        before = dg.AutomationCondition.any_deps_match(unsettled | before)
    return (
        due
        & ~before.with_label("something before it is missing, failed or in progress")
        & ~dg.AutomationCondition.in_progress()
    ).with_label("rebuild_when_due")
