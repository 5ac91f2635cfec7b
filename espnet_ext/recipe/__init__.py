"""The recipe driver: options, stages and their state.

`options` reads what a person may set, `expand` fills paths with it, `stages` reads the stage files,
`fingerprint` and `state` know whether a stage is done, `lock` keeps two drivers apart, `execute` runs one
stage, `driver` puts it together. Nothing here imports torch or ESPnet: the driver starts in no time.
"""
