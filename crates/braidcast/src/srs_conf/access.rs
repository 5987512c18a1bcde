//! `security` and `refer` of a vhost as `[[access]]` tables: what SRS lets in is let in, and nothing else.

use super::directive::{Directive, Origin};
use crate::config::Network;

/// Everybody, as networks.
const EVERYBODY: [&str; 2] = ["0.0.0.0/0", "::/0"];

/// A table for the native file.
pub(super) struct Table<'d> {
    /// As it is written.
    pub text: String,
    /// The directive that it is made of.
    pub from: (&'d Origin, &'static str),
}

/// The tables of a vhost, and the arguments that are no addresses.
pub(super) fn tables(vhost: &Directive) -> (Vec<Table<'_>>, Vec<(&Origin, String)>) {
    let (mut tables, mut odd) = (Vec::new(), Vec::new());
    let head = |intent: &str| format!("[[access]]\nstreams = \"**\"\nvhost = {:?}\nintent = {intent:?}", vhost.arg());
    if let Some(security) = vhost.at("security").filter(|security| security.on("enabled")) {
        let rules = |name: &'static str| security.children.iter().filter(move |rule| rule.name == name);
        // With any rule that allows, or none at all, whoever none allows is refused, whatever he wants.
        let needs_allowance = rules("allow").next().is_some() || rules("deny").next().is_none();
        for intent in ["publish", "play"] {
            let mut networks = |name| {
                let of_intent = rules(name).filter(|rule| rule.arg() == intent);
                of_intent.flat_map(|rule| networks(rule, &mut odd)).collect::<Vec<String>>()
            };
            let (allow, mut deny) = (networks("allow"), networks("deny"));
            if needs_allowance && allow.is_empty() {
                deny = EVERYBODY.map(str::to_owned).into();
            }
            if !allow.is_empty() || !deny.is_empty() {
                let text = format!("{}\nallow = {allow:?}\ndeny = {deny:?}", head(intent));
                tables.push(Table { text, from: (&security.origin, "vhost.security") });
            }
        }
    }
    if let Some(refer) = vhost.at("refer").filter(|refer| refer.on("enabled")) {
        for (name, intent) in [("all", "both"), ("publish", "publish"), ("play", "play")] {
            if let Some(pages) = refer.at(name).filter(|pages| !pages.args.is_empty()) {
                let text = format!("{}\nreferers = {:?}", head(intent), pages.args);
                tables.push(Table { text, from: (&refer.origin, "vhost.refer") });
            }
        }
    }
    (tables, odd)
}

/// What the address of a rule stands for.
fn networks<'d>(rule: &'d Directive, odd: &mut Vec<(&'d Origin, String)>) -> Vec<String> {
    match rule.args.get(1).map(String::as_str).unwrap_or_default() {
        "all" => EVERYBODY.map(str::to_owned).into(),
        address if address.parse::<Network>().is_ok() => vec![address.to_owned()],
        // SRS takes any address of a network for the network.
        address => match address.split_once('/').and_then(|(address, bits)| Network::around(address.parse().ok()?, bits.parse().ok()?)) {
            Some(network) => vec![network.to_string()],
            None => {
                odd.push((&rule.origin, format!("{} {} {address}: is no address, so it is left out", rule.name, rule.arg())));
                Vec::new()
            }
        },
    }
}
