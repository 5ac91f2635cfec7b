#!/usr/bin/env bash
# does: what a method needs beforehand (teacher embeddings, LM embeddings)
# scope: ${method}_${tag}
# options: [method]
# uncounted: [tag]
. "${template_dir}/utils/stage.sh"

say "method ${method} needs nothing beforehand"
