"""Words in payloads that a program may compare; docs/error-codes.md lists them.

Codes of error classes are with their classes.
"""

from __future__ import annotations

from typing import Final

# In a result: what the publisher can do about an input that was not answered.
INPUT_ERRORS: Final = {
    "input.too_long": "The payload is longer than the route's max_bytes: raise it, or cut.",
    "input.encoding": "The payload is not text in the route's encoding.",
    "input.empty": "There is no text: the payload, or the field, is empty or white space.",
    "input.not_json": "The route has pointers, and the payload is not JSON.",
    "input.field_missing": "The payload's JSON has nothing at the route's text pointer.",
    "input.field_type": "A field has a type that cannot be what the route says it is.",
    "input.poison": "Handling this message ended the process three times; it is not tried again.",
    "result.too_large": "The answer is larger than the uplink broker takes: share less.",
    "inference.failed": "The model could not answer this text.",
    "internal": "A fault of ours; the log has the details.",
}
# In an event: what a broker would not do, or a disk did not keep.
BROKER_ERRORS: Final = {
    "input.refused": "The input broker does not let this device subscribe to a route's topic.",
    "uplink.refused": "The uplink broker says that a result's topic or payload is invalid.",
    "uplink.deferred": "The uplink broker does not take results now, by quota or by its rules.",
    "outbox.thinned": "The uplink is away for long: telemetry on disk is summed up.",
    "outbox.evicted": "The outbox passed a bound: the oldest telemetry was given up.",
    "outbox.damaged": "Results on disk cannot be read; the message names the file that holds them.",
}
# In an event: what the agent finds wrong with itself.
SELF_ERRORS: Final = {
    "agent.crashed": "The agent before this one did not end as it should.",
    "agent.grew": "The agent's memory has grown for hours; docs/metrics.md says how to watch it.",
    "agent.wrote": "The agent wrote more in a day than [flash] of the profile allows.",
    "worker.stuck": "An input has kept a thread for a minute; the watchdog, where there is one, "
    "ends the agent.",
    "feedback.damaged": "What was taught cannot be read; the message names the file that holds it.",
    "pressure.not_judged": "A limit of [pressure] cannot be judged: the device gives no reading.",
}
# In a state's `drops`: messages that are not answered, or answers that nobody takes.
DROPS: Final = {
    "own_topic": "An input came on this device's own topics: answering it would never end.",
    "no_route": "An input came that no route asks for: a session kept an old subscription.",
    "retained_again": "A retained input that has been answered before.",
    "result_refused": "A result that the uplink broker refuses for good.",
    "result_too_large": "An answer too large for the uplink broker: an error went in its place.",
    "telemetry_thinned": "Results on disk that are part of a summary now: its `count` has them.",
    "telemetry_evicted": "Results given up because the outbox was full, those of summaries too.",
    "telemetry_expired": "Results given up because they waited for longer than `max_age_s`.",
    "feedback_flood": "A message on `feedback` beyond those that are heeded in a minute.",
    "event": "An event that made room for others, of which 100 are kept, and did not arrive.",
}
# In an event.
EVENTS: Final = {
    "model_loaded": "A model serves; `detail.version` says which.",
    "model_failed": "A model cannot serve; `error` says why. The others go on.",
    "drift_suspected": "A model no longer hears what it was trained on: `detail` has what changed, "
    "of one channel, and a proposal.",
    "drift_over": "It does again, by `detail.channels`, or another bundle answers: `detail.why`; "
    "`still` names the channels by which it does not.",
    "reloaded": "Settings were read again; `detail.restart_needed` names what waits for a restart.",
    "reload_failed": "The new settings cannot be used; the old ones stay. `error` says why.",
    "model_overwritten": "A file of a model was written to, where it lies, while it served: its "
    "inputs wait, and it is loaded anew.",
    "model_fell_back": "`error` says why a model's own bundle is not served; `detail`, what is.",
    "slots_unreadable": "The updater's slots cannot be read: the settings' bundles are served.",
    "config_refused": "The fleet's configuration does not fit these settings, which serve alone.",
    "trial_begun": "A model is on trial; without `model`: the configuration `detail.seq`.",
    "trial_committed": "What was on trial stays.",
    "trial_reverted": "What was before the trial is back; `error` says why, if nobody ordered it.",
    "update_committed": "A bundle has outlasted its trial, or was there already, and stays.",
    "update_failed": "A bundle could not be fetched, or did not outlast its trial: `error`.",
    "update_refused": "What is assigned cannot be had, or may not be trusted: `error` says why.",
    "config_committed": "A configuration has outlasted its trial.",
    "config_failed": "A configuration was taken back; `error` says why.",
    "bad_forgotten": "On the device, somebody had it forget what failed there of a model.",
    "slots_rebuilt": "The updater's table was damaged, and made anew from the bundles there.",
    "control_unavailable": "The updater cannot reach this agent; `error` says why.",
    "identity_cloned": "By the fleet: a second machine has this device's identity; `error`: how.",
    "clock_jumped": "The device's clock was set, by `detail.by_s` seconds; told 4 times a minute.",
    "pressure_rose": "The device is hard pressed: `detail.level`, by `detail.causes`.",
    "pressure_fell": "Less is given up, or nothing: `detail.level`.",
    "limit_not_judged": "See pressure.not_judged; told once of each limit.",
    "memory_grew": "See agent.grew; told once.",
    "flash_budget_passed": "See agent.wrote; told once a day.",
    "worker_stuck": "See worker.stuck; `error` says where it is: file, line, function.",
    "crash_found": "See agent.crashed; `error` has kind, reason, place and the report's name.",
    "metrics_unavailable": "Nothing is served to Prometheus; `error` says why.",
    "subscription_refused": "See input.refused; `error.message` names the topic.",
    "result_refused": "See uplink.refused; told when it begins, and counted in `drops`.",
    "result_replaced": "See result.too_large; told when it begins, and counted in `drops`.",
    "results_deferred": "See uplink.deferred; results are kept and tried again.",
    "results_taken": "The uplink broker has taken all results that it had deferred.",
    "telemetry_thinned": "See outbox.thinned; told when it begins, and counted in `drops`.",
    "telemetry_evicted": "See outbox.evicted; told when it begins, and counted in `drops`.",
    "telemetry_expired": "See outbox.evicted; told when it begins, and counted in `drops`.",
    "alarm_raised": "Alarms of a kind begin: `detail.result` is the first (docs/feedback.md).",
    "alarm_repeated": "The tenth, hundredth, ... of them: `detail.count`.",
    "template_shown": "Review: a template that was never seen; `detail` has its result's id.",
    "notices_withheld": "So many of the three above were too much for a minute: `detail.more`.",
    "feedback_waits": "Feedback is not heard, and waits on the broker: `detail.models` load yet.",
    "feedback_learnt": "Lesson `detail.lesson` counts; `detail` says who gave it, what is odd, and "
    "of an anomaly what it `covers`.",
    "learning_forgotten": "On the device `detail.by` took back what `detail.source` had learnt.",
    "feedback_undone": "Lesson `detail.lesson` was taken back; `detail` says by whom.",
    "feedback_record_lost": "The record of lessons that were taken back is full: "
    "`detail.lessons` more of the oldest are on it no longer.",
    "feedback_unavailable": "What was taught cannot be read or written: `error` says why.",
    "feedback_set_aside": "See feedback.damaged; begun anew.",
    "learning_began": "A source that was not in training learns from its lines that are normal.",
    "learning_ended": "It is judged by what it has learnt from now on.",
    "learning_failed": "Its period is over, and nothing was learnt: too few of its lines were "
    "normal. All sources' statistics judge it; `detail.remedy` says what to do.",
    "outbox_set_aside": "The outbox cannot be read: `error` says where it was moved; begun anew.",
    "outbox_blocked": "The outbox cannot be written; acknowledgements wait. `error` says why.",
}
