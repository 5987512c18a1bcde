//! Spellings of SRS 1 to 3, brought to the present ones for whatever is looked at here. SRS does the same with its files.

use super::directive::{Directive, Origin};

/// What stood in the vhost itself and stands in a block of it now: the block, then the names.
const MOVED: &[(&str, &[&str])] = &[
    (
        "play",
        &[
            "time_jitter",
            "mix_correct",
            "atc",
            "atc_auto",
            "mw_latency",
            "gop_cache",
            "gop_cache_max_frames",
            "queue_length",
            "send_min_interval",
            "reduce_sequence_header",
        ],
    ),
    ("cluster", &["mode", "origin", "token_traverse", "vhost", "debug_srs_upnode"]),
    ("publish", &["publish_1stpkt_timeout", "publish_normal_timeout"]),
];

/// Names that have changed: in the root, then in a vhost or a block of it.
const RENAMED_ROOT: &[(&str, &str)] = &[("http_stream", "http_server")];
const RENAMED: &[(&str, &str)] =
    &[("http", "http_static"), ("publish_1stpkt_timeout", "firstpkt_timeout"), ("publish_normal_timeout", "normal_timeout")];

/// Pages that clients may come from stood in the vhost itself.
const REFERS: &[(&str, &str)] = &[("refer", "all"), ("refer_publish", "publish"), ("refer_play", "play")];

fn rename(directive: &mut Directive, names: &[(&str, &str)]) {
    if let Some((_, name)) = names.iter().find(|(old, _)| *old == directive.name) {
        (*name).clone_into(&mut directive.name);
    }
}

/// Brings a tree to present spellings.
pub(super) fn modernise(root: &mut Directive) {
    for directive in &mut root.children {
        rename(directive, RENAMED_ROOT);
        if directive.name == "vhost" {
            modernise_vhost(directive);
        }
    }
}

fn modernise_vhost(vhost: &mut Directive) {
    for mut directive in std::mem::take(&mut vhost.children) {
        let block = MOVED.iter().find(|(_, names)| names.contains(&directive.name.as_str())).map(|(block, _)| *block);
        rename(&mut directive, RENAMED);
        if directive.name == "forward" && directive.children.is_empty() && !directive.args.is_empty() {
            let args = std::mem::take(&mut directive.args);
            let origin = directive.origin.clone();
            directive.set("enabled", vec!["on".into()], &origin);
            directive.set("destination", args, &origin);
        }
        if let Some((_, present)) = REFERS.iter().find(|(old, _)| *old == directive.name && directive.children.is_empty()) {
            let refer = vhost.child("refer");
            refer.set("enabled", vec!["on".into()], &directive.origin);
            refer.set(present, directive.args, &directive.origin);
            if refer.origin == Origin::Made {
                refer.origin = directive.origin;
            }
            continue;
        }
        match block {
            Some(block) => {
                let block = vhost.child(block);
                if block.origin == Origin::Made {
                    block.origin.clone_from(&directive.origin);
                }
                block.set(&directive.name, directive.args, &directive.origin);
            }
            None => vhost.children.push(directive),
        }
    }
}
