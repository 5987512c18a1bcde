//! Parsers of the program itself: its messages, its configuration, what it keeps of sessions.

use braidcast::fuzzing;

/// A packet of a control channel or of the orders' socket.
pub fn control(input: &[u8]) {
    fuzzing::control_packet(input);
}

/// A configuration file.
pub fn config(input: &[u8]) {
    fuzzing::config_file(&String::from_utf8_lossy(input));
}

/// A configuration file of SRS.
pub fn srs_conf(input: &[u8]) {
    fuzzing::srs_conf_file(&String::from_utf8_lossy(input));
}

/// A saved session, or a segmenter's saved state: the first byte says which.
pub fn saved_state(input: &[u8]) {
    let [what, input @ ..] = input else { return };
    if what % 2 == 0 {
        fuzzing::saved_session(input);
    } else {
        fuzzing::hls_state(input);
    }
}

/// What clients bring to be let in.
pub fn credentials(input: &[u8]) {
    fuzzing::credentials(&String::from_utf8_lossy(input));
}

/// What a hook server answers.
pub fn hook_answer(input: &[u8]) {
    fuzzing::hook_answer(input);
}
