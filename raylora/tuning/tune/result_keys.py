"""Keys of the results that a trial reports to Ray Tune: the trainable writes them, all others read them."""

from __future__ import annotations

#: The metric that trials report, its standard error, and what it is measured against.
METRIC, ERROR, TIME = "value", "value_error", "examples"
#: What a diverged trial reports: worse than anything, and finite, since searchers and schedulers compute with it.
DIVERGED_VALUE = 1e9
#: Result keys beside the metrics: how the trial is, where it runs, and on what ("cuda" or "cpu").
STATUS, REASON, NODE, DEVICE_ID, DEVICE = "trial_status", "trial_reason", "node", "device_id", "device"
#: And what a step takes: steps done and in all, rows of the trial's batch and of the pack's, seconds of such a step.
STEP, TOTAL_STEPS, ROWS, PACK_ROWS, STEP_SECONDS = "step", "total_steps", "rows", "pack_rows", "step_seconds"
#: The name of such a curve in TensorBoard, as Ray Tune itself writes it.
CURVE = "ray/tune/%s"
#: What TensorBoard shows of a report.
CURVES = (METRIC, "train_loss", "learning_rate", "grad_norm", PACK_ROWS, STEP_SECONDS)
#: Tune's own key for how far a trial is: TensorBoard's axis, which must go on where a trial does.
TIMESTEPS = "timesteps_total"
