"""The best recipe for a device, found by measuring: `edgeslm-export ... --tune`.

A target that can be tuned has a `tunable` (`exporters.tune.space.Tunable`) in its module. The
search tries its recipes one by one, each compiled, compared with float32 on sample texts, judged on
a part of the held-out rows, and timed in turns with the profile's own recipe, whose share of the
noise it so gets. Of the recipe of each precision that is nearest to float32, groups of operators
are tried in float32 one by one, and those that help stay so. Of what fits the profile's gate and
budget it proposes the one that serves most messages a second.

`tune.json` lies beside the bundle:

- `bundle`: its hash. `cpu`: where times were taken. `seconds`: the search took; `whole`: it was
  not cut short.
- `provider`: key of the target. `picked`: name of a trial; `why`: one sentence.
- `trials`, each: `name`; `precision`; `recipe` and `session` (as the lock file has them);
  `error`: mean relative distance of its outputs from float32's, head fitted on float32;
  `lost_points` by metric, on `rows` rows, with that head; `latency_ms` (one text of 16 to 32
  tokens), `messages_per_s` (a caller for each core that its threads leave), `latency_ratio` and
  `throughput_ratio` to the profile's own recipe; `nominal_latency_ms` (one text of about 32 tokens,
  as budgets count); `size_bytes`; `fits` gate and budget; `front`: no
  other is better in quality, latency and size; `problem`: why it could not be tried, else null.
- `sensitivity`, each: `recipe` (a trial's name), `group` of operators, `nodes` in it; with int8 in
  the group and without, most points lost of the task's metric (`points_with`, `points_without`; on
  as many rows, gains count as nothing) and `error` (`error_with`, `error_without`); `excluded`: in
  a recipe that was tried.
"""
