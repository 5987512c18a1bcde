//! What comes out of prefixes, whole, in pieces and broken.

use super::*;
use proptest::prelude::*;

const V2: &[u8] = b"\r\n\r\n\0\r\nQUIT\n";

fn v2(command: u8, family: u8, body: &[u8]) -> Vec<u8> {
    [V2, &[command, family], &(body.len() as u16).to_be_bytes(), body].concat()
}

fn v2_ipv4() -> Vec<u8> {
    v2(0x21, 0x11, &[192, 0, 2, 1, 10, 0, 0, 1, 0x1f, 0x90, 0x07, 0x8f])
}

fn v2_ipv6(tlvs: &[u8]) -> Vec<u8> {
    let source = [0x20, 1, 0x0d, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 7];
    v2(0x21, 0x21, &[&source[..], &[0xfe; 16], &[0x1f, 0x90, 0, 80], tlvs].concat())
}

fn is(address: &str) -> Sender {
    Sender::Is(address.parse().expect("an address"))
}

/// Reads input in pieces of at most `cut` bytes: what was said, and how many bytes were left alone.
fn read(form: Form, input: &[u8], cut: usize) -> Result<Option<(Sender, usize)>, PrefixError> {
    let mut reader = PrefixReader::new(form);
    let mut at = 0;
    for piece in input.chunks(cut.max(1)) {
        let (used, sender) = reader.handle_input(piece)?;
        at += used;
        if let Some(sender) = sender {
            return Ok(Some((sender, input.len() - at)));
        }
        assert_eq!(used, piece.len());
        // As it goes on in another process.
        let saved = postcard::to_stdvec(&reader).expect("it can be encoded");
        reader = postcard::from_bytes(&saved).expect("what was encoded");
    }
    Ok(None)
}

/// However it is cut, with the first bytes of the client behind it.
#[track_caller]
fn assert_read(form: Form, prefix: &[u8], expected: Sender) {
    let input = [prefix, b"\x03GET / and more"].concat();
    for cut in 1..=input.len() {
        assert_eq!(read(form, &input, cut), Ok(Some((expected, 15))), "{cut} bytes at a time");
    }
    for end in 0..prefix.len() {
        assert_eq!(read(form, &prefix[..end], end), Ok(None), "{end} bytes of it");
    }
}

#[track_caller]
fn assert_refused(form: Form, input: &[u8], expected: PrefixError) {
    for cut in [1, 2, 7, input.len()] {
        assert_eq!(read(form, input, cut), Err(expected), "{cut} bytes at a time");
    }
}

#[test]
fn version_1_names_the_client() {
    assert_read(Form::Proxy, b"PROXY TCP4 192.0.2.1 10.0.0.1 8080 1935\r\n", is("192.0.2.1:8080"));
    assert_read(Form::Proxy, b"PROXY TCP6 2001:db8::7 ::1 8080 80\r\n", is("[2001:db8::7]:8080"));
    assert_read(Form::Proxy, b"PROXY TCP6 ::ffff:192.0.2.1 ::1 0 65535\r\n", is("192.0.2.1:0"));
    let longest = b"PROXY TCP6 ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff 65535 65535\r\n";
    assert_eq!(longest.len(), 104);
    assert_read(Form::Proxy, longest, is("[ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff]:65535"));
    assert_read(Form::Proxy, b"PROXY UNKNOWN\r\n", Sender::Unsaid);
    assert_read(Form::Proxy, b"PROXY UNKNOWN ff:: whatever 1 2 3\r\n", Sender::Unsaid);
}

#[test]
fn version_1_is_refused_unless_it_is_right() {
    for line in [
        "PROXY TCP4 192.0.2.1 10.0.0.1 8080 1935 \r\n",
        "PROXY TCP4 192.0.2.1 10.0.0.1 8080\r\n",
        "PROXY TCP4  192.0.2.1 10.0.0.1 8080 1935\r\n",
        "PROXY TCP4 2001:db8::7 10.0.0.1 8080 1935\r\n",
        "PROXY TCP4 192.0.2.1 ::1 8080 1935\r\n",
        "PROXY TCP4 192.0.2.1 10.0.0.1 65536 1935\r\n",
        "PROXY TCP4 192.0.2.1 10.0.0.1 +80 1935\r\n",
        "PROXY TCP4 192.0.2.1 10.0.0.1 80 \r\n",
        "PROXY TCP4 192.0.2.1 10.0.0.1 80 80\n",
        "PROXY TCP4 192.0.2.1 10.0.0.1 80 80\r\r\n",
        "PROXY tcp4 192.0.2.1 10.0.0.1 80 80\r\n",
        "PROXY UNKNOWNX\r\n",
        "PROXY \r\n",
    ] {
        assert_refused(Form::Proxy, line.as_bytes(), PrefixError::Line);
    }
    assert_refused(Form::Proxy, &[b"PROXY UNKNOWN ".as_slice(), &[b'x'; 100]].concat(), PrefixError::TooLong);
    assert_read(Form::Proxy, &[b"PROXY UNKNOWN ".as_slice(), &[b'x'; 91], b"\r\n"].concat(), Sender::Unsaid);
    for other in [&b"PROXYTCP4 "[..], b"PUT / HTTP/1.1\r\n", b"GET / HTTP/1.1\r\n", b"\x03", b"\xf3\0\x04abcd"] {
        assert_refused(Form::Proxy, other, PrefixError::Missing);
    }
}

#[test]
fn version_2_names_the_client_and_its_fields_are_skipped() {
    assert_read(Form::Proxy, &v2_ipv4(), is("192.0.2.1:8080"));
    assert_read(Form::Proxy, &v2_ipv6(&[]), is("[2001:db8::7]:8080"));
    assert_read(Form::Proxy, &v2_ipv6(b"\x02\0\x05a.com\x04\0\x02xx"), is("[2001:db8::7]:8080"));
    // The fields are not even looked at.
    assert_read(Form::Proxy, &v2_ipv6(b"\x02\xff\xffa"), is("[2001:db8::7]:8080"));
    assert_read(Form::Proxy, &v2_ipv6(&[0; MAX_PROXY_BYTES - 16 - 36]), is("[2001:db8::7]:8080"));
}

#[test]
fn version_2_without_an_address_leaves_the_connections_own() {
    assert_read(Form::Proxy, &v2(0x20, 0, &[]), Sender::Unsaid);
    assert_read(Form::Proxy, &v2(0x20, 0x11, &[1; 12]), Sender::Unsaid);
    assert_read(Form::Proxy, &v2(0x20, 0xff, &[1; 40]), Sender::Unsaid);
    assert_read(Form::Proxy, &v2(0x21, 0, &[]), Sender::Unsaid);
    for family in [0x00, 0x12, 0x22, 0x31, 0x32] {
        assert_read(Form::Proxy, &v2(0x21, family, &[1; 216]), Sender::Unsaid);
    }
}

#[test]
fn version_2_is_refused_unless_it_is_right() {
    assert_refused(Form::Proxy, &v2(0x21, 0x11, &[1; 11]), PrefixError::TooShort);
    assert_refused(Form::Proxy, &v2(0x21, 0x21, &[1; 35]), PrefixError::TooShort);
    for (command, family) in [(0x11, 0x11), (0x31, 0x11), (0x22, 0x11), (0x21, 0x10), (0x21, 0x13), (0x21, 0x41)] {
        assert_refused(Form::Proxy, &v2(command, family, &[1; 36]), PrefixError::Unknown);
    }
    assert_refused(Form::Proxy, &v2_ipv6(&[0; MAX_PROXY_BYTES - 16 - 36 + 1]), PrefixError::TooLong);
    assert_refused(Form::Proxy, &v2(0x20, 0, &[0; 65_535]), PrefixError::TooLong);
    assert_refused(Form::Proxy, b"\r\n\r\nGET / HTTP/1.1\r\n\r\n", PrefixError::Missing);
}

#[test]
fn a_real_ip_prefix_that_we_write_is_read() {
    for (ip, expected) in [("192.0.2.1", is("192.0.2.1:0")), ("::ffff:192.0.2.1", is("192.0.2.1:0")), ("2001:db8::1", Sender::Unsaid)] {
        assert_read(Form::RealIp, &real_ip_prefix(ip.parse().expect("an address")), expected);
    }
    assert_eq!(real_ip_prefix(std::net::Ipv4Addr::LOCALHOST.into()), b"\xf3\0\x04\x7f\0\0\x01");
}

#[test]
fn the_real_ip_prefix_of_srs_may_be_there() {
    assert_read(Form::RealIp, b"\xf3\0\x04\xc0\x00\x02\x01", is("192.0.2.1:0"));
    assert_read(Form::RealIp, b"\xf3\0\x07\xc0\x00\x02\x01abc", is("192.0.2.1:0"));
    assert_read(Form::RealIp, b"\xf3\0\x03abc", Sender::Unsaid);
    assert_read(Form::RealIp, b"\xf3\0\0", Sender::Unsaid);
    assert_read(Form::RealIp, &[&b"\xf3\x04\0"[..], &[9; 1024]].concat(), is("9.9.9.9:0"));
    assert_refused(Form::RealIp, b"\xf3\x04\x01abcd", PrefixError::TooLong);
    for other in [&b"\x03abc"[..], b"GET /", b"PROXY TCP4 ", b"\x06"] {
        assert_eq!(read(Form::RealIp, other, other.len()), Ok(Some((Sender::Unsaid, other.len()))));
    }
}

fn forms() -> impl Strategy<Value = Form> {
    prop_oneof![Just(Form::Proxy), Just(Form::RealIp)]
}

/// Bytes that come far: the beginnings of prefixes, with something behind.
fn inputs() -> impl Strategy<Value = Vec<u8>> {
    let begin = prop_oneof![
        Just(b"PROXY TCP4 192.0.2.1 ".to_vec()),
        Just(b"PROXY TCP6 2001:db8::7 ::1 ".to_vec()),
        Just(b"PROXY ".to_vec()),
        Just([V2, b"\x21\x11\0\x0d"].concat()),
        Just([V2, b"\x20\0\0\x03"].concat()),
        Just(V2.to_vec()),
        Just(b"\xf3\0".to_vec()),
        Just(Vec::new()),
    ];
    let end = prop_oneof![proptest::collection::vec(any::<u8>(), 0..200), "[0-9. ]{0,30}(\r\n)?.{0,9}".prop_map(String::into_bytes),];
    (begin, end).prop_map(|(begin, end)| [begin, end].concat())
}

proptest! {
    #[test]
    fn no_bytes_panic_and_the_cut_makes_no_difference(form in forms(), input in inputs(), cut in 1usize..40) {
        prop_assert_eq!(read(form, &input, cut), read(form, &input, input.len()));
    }

    #[test]
    fn every_address_is_read_as_it_was_written(v4: [u8; 4], v6: [u8; 16], port: u16, cut in 1usize..200) {
        let written: SocketAddr = (std::net::Ipv4Addr::from(v4), port).into();
        let line = format!("PROXY TCP4 {} 10.0.0.1 {port} 1\r\n", written.ip());
        prop_assert_eq!(read(Form::Proxy, line.as_bytes(), cut), Ok(Some((Sender::Is(written), 0))));
        let binary = v2(0x21, 0x11, &[&v4[..], &[0; 4], &port.to_be_bytes(), &[0; 2]].concat());
        prop_assert_eq!(read(Form::Proxy, &binary, cut), Ok(Some((Sender::Is(written), 0))));
        let written: SocketAddr = (std::net::Ipv6Addr::from(v6), port).into();
        let line = format!("PROXY TCP6 {} ::1 {port} 1\r\n", written.ip());
        prop_assert_eq!(read(Form::Proxy, line.as_bytes(), cut), Ok(Some((Sender::Is(plain(written)), 0))));
        let binary = v2(0x21, 0x21, &[&v6[..], &[0; 16], &port.to_be_bytes(), &[0; 2]].concat());
        prop_assert_eq!(read(Form::Proxy, &binary, cut), Ok(Some((Sender::Is(plain(written)), 0))));
    }
}
