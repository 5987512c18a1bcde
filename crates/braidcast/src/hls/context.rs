//! What tells an HLS viewer's requests from others: `hls_ctx` in their queries. Players repeat it because the index leads to itself with it.

use braidcast_protocols::hls::playlist;
use braidcast_protocols::http::{parameter, parameters};

/// The parameter's name, SRS's.
const NAME: &str = "hls_ctx";
/// The longest context.
const MAX_BYTES: usize = 24;

/// The context that a query names, if it is one that can be.
pub fn of_query(query: &str) -> Option<String> {
    parameter(query, NAME).filter(|context| is_sound(context))
}

/// Whether a text can be a context: letters, digits, `-` and `_`, at most 24.
pub fn is_sound(text: &str) -> bool {
    (1..=MAX_BYTES).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_".contains(&byte))
}

/// The index that leads to the one that was asked for, by the last level of its path and its query, with a context.
pub fn leading_index(name: &str, query: &str, context: &str) -> String {
    let mut all = format!("{NAME}={context}");
    for (_, _, pair) in parameters(query).filter(|(name, ..)| *name != NAME) {
        all.push('&');
        all.push_str(pair);
    }
    playlist::leading_to(name, &all)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn a_context_is_added_once_and_the_rest_of_the_query_stays() {
        let uri = |query: &str| leading_index("a b.m3u8", query, "x1").lines().last().unwrap().to_owned();
        assert_eq!(uri(""), "a%20b.m3u8?hls_ctx=x1");
        assert_eq!(uri("token=t&hls_ctx=old&start=1&&hls_ctx="), "a%20b.m3u8?hls_ctx=x1&token=t&start=1");
        assert!(!uri("a=\"\r\n<x>").contains(['"', '\n', '<']));
    }

    #[test]
    fn only_what_can_be_one_is_taken() {
        assert_eq!(of_query("a=b&hls_ctx=Ab-_9").as_deref(), Some("Ab-_9"));
        for query in ["", "hls_ctx=", "hls_ctx", "hls_ctx=a%20b", "hls_ctx=%zz", "xhls_ctx=a", &format!("hls_ctx={}", "x".repeat(25))] {
            assert_eq!(of_query(query), None, "{query}");
        }
    }
}
