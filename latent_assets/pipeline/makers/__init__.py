"""How the stages of each group are made, judged and described: the rooms' functions, fitted to the table of stages.

    maker(lineage, key, recipes, options) -> {stage: Output or why it failed}
    judge(lineage, manifest, deep) -> [Finding]                     reads the artefact; never raises for damage
    describe(lineage, manifest, details) -> {name: fact}            figures for whoever looks

Only what a stage needs from others is put together here; the work is the rooms'.
"""
