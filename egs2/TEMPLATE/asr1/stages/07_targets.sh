#!/usr/bin/env bash
# does: what a method needs beforehand (teacher embeddings, LM embeddings)
# scope: ${method}_${tag}
# options: [method]
# uncounted: [tag]
. "${template_dir}/utils/stage.sh"

say "what method ${method} needs beforehand is computed by parts of this stage of its own, if it needs anything"
