//! Each rule, what it lets in and what it does not; forged, expired and borrowed credentials; a model of the whole.

use super::*;
use crate::config::{AccessIntent, Network, Secret};
use crate::relays::Pattern;
use aws_lc_rs::encoding::AsDer;
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::rsa;
use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, ECDSA_P384_SHA384_FIXED_SIGNING, EcdsaKeyPair, KeyPair};
use base64::Engine;
use base64::prelude::{BASE64_STANDARD, BASE64_URL_SAFE_NO_PAD};
use jsonwebtoken::{Algorithm, EncodingKey, Header, encode};
use proptest::prelude::*;
use serde_json::{Value, json};

const SECRET: &str = "canary-0123456789abcdef";
const NOW_S: u64 = 1_800_000_000;

fn key(stream: &str) -> StreamKey {
    StreamKey::new("v.example", "live", stream).unwrap()
}

fn table(streams: &str) -> Access {
    Access { streams: Pattern::parse(streams).unwrap(), ..Access::default() }
}

fn secret() -> Secret {
    Secret::new(SECRET)
}

/// What the rules say to a client of 192.0.2.7 that plays `live/x` with this query.
fn played(rules: &mut Rules, params: &str) -> Result<(), Reason> {
    asked(rules, Intent::Play, &key("x"), params)
}

fn asked(rules: &mut Rules, intent: Intent, key: &StreamKey, params: &str) -> Result<(), Reason> {
    let client = "192.0.2.7".parse().unwrap();
    rules.check(&Asking { intent, key, client, params, bearer: None, page: "", now_s: NOW_S }).map_err(|denied| denied.reason)
}

#[test]
fn without_a_rule_for_it_a_stream_is_everybodys() {
    let mut rules = Rules::new(&[Access { tokens: vec![secret()], intent: AccessIntent::Publish, ..table("live/x") }]);
    assert_eq!(played(&mut rules, ""), Ok(()));
    assert_eq!(asked(&mut rules, Intent::Publish, &key("y"), ""), Ok(()));
    assert_eq!(asked(&mut rules, Intent::Publish, &key("x"), ""), Err(Reason::Missing));
    assert_eq!(asked(&mut Rules::default(), Intent::Publish, &key("x"), ""), Ok(()));
}

#[test]
fn every_rule_that_names_a_stream_has_to_let_its_client_in() {
    let token = |text: &str| Access { tokens: vec![Secret::new(text)], ..table("live/*") };
    let mut rules =
        Rules::new(&[table("**"), token("first-token-0001"), Access { vhost: "V.example".into(), ..token("first-token-0001") }]);
    assert_eq!(played(&mut rules, "token=first-token-0001"), Ok(()));
    let mut rules = Rules::new(&[token("first-token-0001"), token("second-token-002")]);
    let client = "192.0.2.7".parse().unwrap();
    let asking =
        Asking { intent: Intent::Play, key: &key("x"), client, params: "token=first-token-0001", bearer: None, page: "", now_s: NOW_S };
    assert_eq!(rules.check(&asking), Err(Denied { rule: 2, reason: Reason::Token }));
    assert_eq!(rules.check(&Asking { bearer: Some("second-token-002"), ..asking }), Ok(()));
    let mut elsewhere = Rules::new(&[Access { vhost: "w.example".into(), ..token("first-token-0001") }]);
    assert_eq!(played(&mut elsewhere, ""), Ok(()));
}

#[test]
fn addresses_are_allowed_and_denied() {
    let networks = |list: &[&str]| list.iter().map(|text| text.parse::<Network>().unwrap()).collect::<Vec<_>>();
    let lets_in = |allow: &[&str], deny: &[&str], client: &str| {
        let mut rules = Rules::new(&[Access { allow: networks(allow), deny: networks(deny), ..table("**") }]);
        let client = client.parse().unwrap();
        rules.check(&Asking { intent: Intent::Play, key: &key("x"), client, params: "", bearer: None, page: "", now_s: NOW_S }).is_ok()
    };
    assert!(lets_in(&["192.0.2.0/24"], &[], "192.0.2.7") && !lets_in(&["192.0.2.0/24"], &[], "192.0.3.7"));
    assert!(lets_in(&["192.0.2.0/24"], &[], "::ffff:192.0.2.7"));
    assert!(!lets_in(&["192.0.2.0/24"], &["192.0.2.7"], "192.0.2.7") && lets_in(&["192.0.2.0/24"], &["192.0.2.7"], "192.0.2.8"));
    assert!(lets_in(&[], &["2001:db8::/32"], "2001:db9::1") && !lets_in(&[], &["2001:db8::/32"], "2001:db8::1"));
}

#[test]
fn pages_are_allowed_with_those_below_them() {
    let lets_in = |referers: &[&str], page: &str| {
        let referers = referers.iter().map(|text| (*text).to_owned()).collect();
        let mut rules = Rules::new(&[Access { referers, ..table("**") }]);
        let client = "192.0.2.7".parse().unwrap();
        rules.check(&Asking { intent: Intent::Play, key: &key("x"), client, params: "", bearer: None, page, now_s: NOW_S }).is_ok()
    };
    assert!(lets_in(&["Example.com"], "https://www.example.com/live?x") && lets_in(&["example.com"], "http://EXAMPLE.com:8080"));
    for page in ["", "https://badexample.com/", "https://example.com.evil.test/", "https://evil.test/?https://example.com/", "example.com"]
    {
        assert!(!lets_in(&["example.com"], page), "{page}");
    }
    assert!(
        lets_in(&["example.com", "none"], "")
            && !lets_in(&["example.com", "none"], "x://none2/")
            && !lets_in(&["example.com", "none"], "none")
    );
}

#[test]
fn a_signature_is_for_one_stream_one_intent_and_until_then() {
    let mut rules = Rules::new(&[Access { sign_secret: secret(), ..table("**") }]);
    let signer = sign::Secret::new(SECRET.as_bytes());
    let query = signer.query(Intent::Play, &key("x"), NOW_S + 60);
    assert_eq!(played(&mut rules, &query), Ok(()));
    assert_eq!(played(&mut rules, &query.to_uppercase().replace("EXPIRES", "expires").replace("SIGN", "sign")), Ok(()));
    assert_eq!(played(&mut rules, &signer.query(Intent::Play, &key("x"), NOW_S)), Ok(()));
    assert_eq!(played(&mut rules, &signer.query(Intent::Play, &key("x"), NOW_S - 1)), Err(Reason::Expired));
    assert_eq!(asked(&mut rules, Intent::Publish, &key("x"), &query), Err(Reason::Signature));
    assert_eq!(asked(&mut rules, Intent::Play, &key("y"), &query), Err(Reason::Signature));
    let other_vhost = StreamKey::new("w.example", "live", "x").unwrap();
    assert_eq!(asked(&mut rules, Intent::Play, &other_vhost, &query), Err(Reason::Signature));
    assert_eq!(played(&mut rules, &query.replace(&format!("{}", NOW_S + 60), &format!("{}", NOW_S + 61))), Err(Reason::Signature));
    for broken in ["expires=1", "sign=00", "expires=&sign=", "expires=-1&sign=0", "expires=9999999999999&sign=0", "expires=1e9&sign=0"] {
        assert!(matches!(played(&mut rules, broken), Err(Reason::Signature | Reason::Missing)), "{broken}");
    }
    assert_eq!(played(&mut rules, &query[..query.len() - 2]), Err(Reason::Signature));
    assert_eq!(played(&mut rules, &sign::Secret::new(b"another").query(Intent::Play, &key("x"), NOW_S + 60)), Err(Reason::Signature));
}

#[test]
fn what_our_own_programs_publish_is_let_in() {
    let mut rules = Rules::new(&[Access { tokens: vec![secret()], allow: vec!["10.0.0.0/8".parse().unwrap()], ..table("**") }]);
    let own = sign::Secret::new(b"own").query(Intent::Publish, &key("x"), NOW_S + 60);
    assert_eq!(asked(&mut rules, Intent::Publish, &key("x"), &own), Err(Reason::Address));
    rules.keep_own(b"own");
    assert_eq!(asked(&mut rules, Intent::Publish, &key("x"), &own), Ok(()));
    assert_eq!(asked(&mut rules, Intent::Publish, &key("y"), &own), Err(Reason::Address));
    let play = sign::Secret::new(b"own").query(Intent::Play, &key("x"), NOW_S + 60);
    assert_eq!(played(&mut rules, &play), Err(Reason::Address));
}

/// A token of three parts with this header and these claims, signed with HMAC by `secret`, whatever the header says.
fn by_hand(header: &Value, claims: &Value, secret: &[u8]) -> String {
    let part = |value: &Value| BASE64_URL_SAFE_NO_PAD.encode(value.to_string());
    let signed = format!("{}.{}", part(header), part(claims));
    let tag = aws_lc_rs::hmac::sign(&aws_lc_rs::hmac::Key::new(aws_lc_rs::hmac::HMAC_SHA256, secret), signed.as_bytes());
    format!("{signed}.{}", BASE64_URL_SAFE_NO_PAD.encode(tag))
}

fn made(algorithm: Algorithm, kid: Option<&str>, claims: &Value, key: &EncodingKey) -> String {
    encode(&Header { kid: kid.map(str::to_owned), ..Header::new(algorithm) }, claims, key).unwrap()
}

#[test]
fn claims_say_until_when_for_which_stream_and_for_what() {
    let mut rules = Rules::new(&[Access { jwt_secret: secret(), ..table("**") }]);
    let mut said = |claims: Value| {
        let token = made(Algorithm::HS256, None, &claims, &EncodingKey::from_secret(SECRET.as_bytes()));
        played(&mut rules, &format!("jwt={token}"))
    };
    let soon = NOW_S + 60;
    assert_eq!(said(json!({ "exp": soon })), Ok(()));
    assert_eq!(said(json!({ "exp": NOW_S - 29 })), Ok(()), "within the leeway");
    assert_eq!(said(json!({ "exp": NOW_S - 30 })), Err(Reason::Expired));
    assert_eq!(said(json!({ "exp": soon, "nbf": NOW_S + 30 })), Ok(()));
    assert_eq!(said(json!({ "exp": soon, "nbf": NOW_S + 31 })), Err(Reason::Early));
    for claims in [json!({}), json!({ "exp": "soon" }), json!({ "exp": null }), json!({ "exp": soon, "nbf": "x" })] {
        assert_eq!(said(claims.clone()), Err(Reason::Token), "{claims}");
    }
    for (claim, value, fits) in [
        ("stream", json!("live/x"), true),
        ("stream", json!("live/*"), true),
        ("stream", json!(["live/y", "live/x"]), true),
        ("stream", json!("live/y"), false),
        ("stream", json!("x"), false),
        ("stream", json!([]), false),
        ("stream", json!(null), false),
        ("stream", json!(7), false),
        ("vhost", json!("V.example"), true),
        ("vhost", json!("w.example"), false),
        ("action", json!("play"), true),
        ("action", json!(["publish", "play"]), true),
        ("action", json!("publish"), false),
        ("action", json!("PLAY"), false),
    ] {
        let expected = if fits { Ok(()) } else { Err(Reason::Scope) };
        assert_eq!(said(json!({ "exp": soon, claim: value })), expected, "{claim} {value}");
    }
    // Who the token was made for is not asked.
    assert_eq!(said(json!({ "exp": soon, "aud": "x", "iss": "y", "sub": 7 })), Ok(()));
}

#[test]
fn a_token_is_brought_by_query_or_field() {
    let token = made(Algorithm::HS256, None, &json!({ "exp": NOW_S + 9 }), &EncodingKey::from_secret(SECRET.as_bytes()));
    let mut rules = Rules::new(&[Access { jwt_secret: secret(), tokens: vec![Secret::new("static+token/0001")], ..table("**") }]);
    let client = "192.0.2.7".parse().unwrap();
    let mut brought = |params: &str, bearer: Option<&str>| {
        rules
            .check(&Asking { intent: Intent::Play, key: &key("x"), client, params, bearer, page: "", now_s: NOW_S })
            .map_err(|denied| denied.reason)
    };
    for query in [format!("jwt={token}"), format!("token={token}"), "token=static%2Btoken%2F0001".into(), "token=static+token/0001".into()]
    {
        assert_eq!(brought(&query, None), Ok(()), "{query}");
    }
    assert_eq!(brought("", Some(&token)), Ok(()));
    assert_eq!(brought("", Some("static+token/0001")), Ok(()));
    // What is brought wrong by one way may be brought right by another.
    assert_eq!(brought("token=wrong", Some(&token)), Ok(()));
    for (query, reason) in
        [("", Reason::Missing), ("token=", Reason::Missing), ("token=wrong", Reason::Token), ("jwt=static+token/0001", Reason::Token)]
    {
        assert_eq!(brought(query, None), Err(reason), "{query}");
    }
}

/// A key pair of each kind: to sign with, the public key in PEM, and as a JWK.
struct Pair {
    algorithm: Algorithm,
    signing: EncodingKey,
    pem: String,
    jwk: Value,
}

fn pem(der: &[u8]) -> String {
    let text = BASE64_STANDARD.encode(der);
    let lines: Vec<&str> = text.as_bytes().chunks(64).map(|line| std::str::from_utf8(line).unwrap()).collect();
    format!("-----BEGIN PUBLIC KEY-----\n{}\n-----END PUBLIC KEY-----\n", lines.join("\n"))
}

fn ec_pair(kid: &str) -> Pair {
    let pkcs8 = EcdsaKeyPair::generate_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, &SystemRandom::new()).unwrap();
    let pair = EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, pkcs8.as_ref()).unwrap();
    let point = pair.public_key().as_ref();
    let coordinate = |bytes: &[u8]| BASE64_URL_SAFE_NO_PAD.encode(bytes);
    let der = pair.public_key().as_der().unwrap();
    Pair {
        algorithm: Algorithm::ES256,
        signing: EncodingKey::from_ec_der(pkcs8.as_ref()),
        pem: pem(der.as_ref()),
        jwk: json!({ "kty": "EC", "crv": "P-256", "kid": kid, "x": coordinate(&point[1..33]), "y": coordinate(&point[33..]) }),
    }
}

fn rsa_pair(kid: &str) -> Pair {
    let pair = rsa::KeyPair::generate(rsa::KeySize::Rsa2048).unwrap();
    let public = pair.public_key();
    let number = |bytes: &[u8]| BASE64_URL_SAFE_NO_PAD.encode(bytes);
    let pkcs8 = AsDer::<aws_lc_rs::encoding::Pkcs8V1Der<'_>>::as_der(&pair).unwrap();
    let der = AsDer::<aws_lc_rs::encoding::PublicKeyX509Der<'_>>::as_der(public).unwrap();
    let jwk = json!({
        "kty": "RSA", "kid": kid, "alg": "RS256", "use": "sig",
        "n": number(public.modulus().big_endian_without_leading_zero()),
        "e": number(public.exponent().big_endian_without_leading_zero()),
    });
    let signing = EncodingKey::from_rsa_pem(
        format!("-----BEGIN PRIVATE KEY-----\n{}\n-----END PRIVATE KEY-----\n", BASE64_STANDARD.encode(pkcs8.as_ref())).as_bytes(),
    );
    Pair { algorithm: Algorithm::RS256, signing: signing.unwrap(), pem: pem(der.as_ref()), jwk }
}

#[test]
fn tokens_of_public_keys_are_taken_and_forged_ones_are_not() {
    let claims = json!({ "exp": NOW_S + 60, "stream": "live/x", "action": "play" });
    for (pair, stranger) in [(ec_pair("a"), ec_pair("a")), (rsa_pair("a"), rsa_pair("a"))] {
        let set = json!({ "keys": [stranger.jwk, pair.jwk, { "kty": "oct", "k": "AAAA" }, { "kty": "new" }] }).to_string();
        for (content, strangers_too) in [(pair.pem.clone(), false), (set, true)] {
            let mut rules = Rules::new(&[Access { jwt_public_key: "key".into(), ..table("**") }]);
            let good = made(pair.algorithm, Some("a"), &claims, &pair.signing);
            assert_eq!(played(&mut rules, &format!("jwt={good}")), Err(Reason::NoKeys));
            rules.keep_keys("key".into(), &content).unwrap();
            for _ in 0..2 {
                assert_eq!(played(&mut rules, &format!("jwt={good}")), Ok(()), "{:?}", pair.algorithm);
            }
            assert_eq!(
                asked(&mut rules, Intent::Play, &key("y"), &format!("jwt={good}")),
                Err(Reason::Scope),
                "replayed for another stream"
            );
            assert_eq!(asked(&mut rules, Intent::Publish, &key("x"), &format!("jwt={good}")), Err(Reason::Scope), "or another intent");
            let foreign = made(pair.algorithm, Some("a"), &claims, &stranger.signing);
            assert_eq!(played(&mut rules, &format!("jwt={foreign}")).is_ok(), strangers_too);
            let (head, rest) = good.split_once('.').unwrap();
            let (_, signature) = rest.split_once('.').unwrap();
            let wider = BASE64_URL_SAFE_NO_PAD.encode(json!({ "exp": NOW_S + 60 }).to_string());
            let none = BASE64_URL_SAFE_NO_PAD.encode(r#"{"alg":"none","typ":"JWT"}"#);
            let forged = [
                format!("{head}.{wider}.{signature}"),
                format!("{none}.{wider}."),
                format!("{none}.{wider}.{signature}"),
                format!("{head}.{wider}."),
                // The public key taken for a secret.
                by_hand(&json!({ "alg": "HS256" }), &claims, content.as_bytes()),
                by_hand(&json!({ "alg": "HS256" }), &claims, pair.pem.trim().as_bytes()),
                by_hand(&json!({ "alg": format!("{:?}", pair.algorithm) }), &claims, content.as_bytes()),
                "a.b.c".to_owned(),
                "..".to_owned(),
                "x".repeat(100_000),
            ];
            for token in forged {
                assert_eq!(played(&mut rules, &format!("jwt={token}")), Err(Reason::Token), "{token}");
            }
            let other_key = made(pair.algorithm, Some("b"), &claims, &pair.signing);
            assert_eq!(played(&mut rules, &format!("jwt={other_key}")).is_ok(), !strangers_too, "a set says which of its keys it was");
        }
    }
}

#[test]
fn new_keys_hold_at_once_and_those_before_no_more() {
    let (old, new) = (ec_pair("old"), ec_pair("new"));
    let claims = json!({ "exp": NOW_S + 60 });
    let mut rules = Rules::new(&[Access { jwks: "set".into(), ..table("**") }]);
    let [of_old, of_new] = [&old, &new].map(|pair| format!("jwt={}", made(pair.algorithm, None, &claims, &pair.signing)));
    rules.keep_keys("set".into(), &json!({ "keys": [old.jwk] }).to_string()).unwrap();
    assert_eq!((played(&mut rules, &of_old), played(&mut rules, &of_new)), (Ok(()), Err(Reason::Token)));
    rules.keep_keys("set".into(), &json!({ "keys": [new.jwk] }).to_string()).unwrap();
    assert_eq!((played(&mut rules, &of_old), played(&mut rules, &of_new)), (Err(Reason::Token), Ok(())));
    assert!(rules.keep_keys("set".into(), "{}").is_err());
    assert_eq!(played(&mut rules, &of_new), Ok(()), "what cannot be used changes nothing");
}

#[test]
fn what_has_to_be_understood_and_is_not_is_refused() {
    let mut rules = Rules::new(&[Access { jwt_secret: secret(), ..table("**") }]);
    let claims = json!({ "exp": NOW_S + 60 });
    let plain = by_hand(&json!({ "alg": "HS256" }), &claims, SECRET.as_bytes());
    assert_eq!(played(&mut rules, &format!("jwt={plain}")), Ok(()));
    let critical = by_hand(&json!({ "alg": "HS256", "crit": ["b64"], "b64": "false" }), &claims, SECRET.as_bytes());
    assert_eq!(played(&mut rules, &format!("jwt={critical}")), Err(Reason::Token));
    for algorithm in ["HS384", "HS512", "hs256", "EdDSA"] {
        let other = by_hand(&json!({ "alg": algorithm }), &claims, SECRET.as_bytes());
        assert_eq!(played(&mut rules, &format!("jwt={other}")), Err(Reason::Token), "{algorithm}");
    }
}

#[test]
fn files_that_hold_no_key_say_what_they_hold() {
    let other_curve = EcdsaKeyPair::generate_pkcs8(&ECDSA_P384_SHA384_FIXED_SIGNING, &SystemRandom::new()).unwrap();
    let other_curve = EcdsaKeyPair::from_pkcs8(&ECDSA_P384_SHA384_FIXED_SIGNING, other_curve.as_ref()).unwrap();
    let other_curve = pem(other_curve.public_key().as_der().unwrap().as_ref());
    for (content, fault) in [
        ("", "neither a JWK set nor a public key"),
        ("-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----", "private key"),
        ("{", "no JSON"),
        ("{}", "no list"),
        ("{\"keys\":[]}", "no key that can be used"),
        ("{\"keys\":[{\"kty\":\"oct\",\"k\":\"AAAA\"}]}", "no key that can be used"),
        (&other_curve, "another curve"),
    ] {
        let error = Rules::default().keep_keys("f".into(), content).unwrap_err();
        assert!(error.contains(fault), "{content}: {error}");
    }
    let mut enc = ec_pair("a").jwk;
    enc["use"] = "enc".into();
    assert!(Rules::default().keep_keys("f".into(), &json!({ "keys": [enc] }).to_string()).is_err());
}

#[test]
fn names_are_told_to_those_who_may_play_without_more() {
    let client = "192.0.2.7".parse().unwrap();
    let knows = |rule: Access| Rules::new(&[rule]).may_know(&key("x"), client);
    assert!(knows(table("live/*")) && knows(Access { tokens: vec![secret()], intent: AccessIntent::Publish, ..table("**") }));
    assert!(!knows(Access { tokens: vec![secret()], ..table("**") }) && !knows(Access { referers: vec!["a.b".into()], ..table("**") }));
    assert!(!knows(Access { deny: vec!["192.0.2.0/24".parse().unwrap()], ..table("**") }));
}

#[test]
fn queries_are_shown_without_what_may_be_secret() {
    for (query, shown) in [
        ("", ""),
        ("token=x&vhost=a.b", "token=***&vhost=a.b"),
        ("expires=1&sign=ab&jwt=c.d.e", "expires=1&sign=***&jwt=***"),
        ("key", "***"),
        ("&a=&b=1", "a=&b=***"),
        ("start=-90s&Token=x", "start=-90s&Token=***"),
    ] {
        assert_eq!(without_secrets(query), shown, "{query}");
    }
}

#[test]
fn no_refusal_says_what_was_brought() {
    let mut rules = Rules::new(&[Access { tokens: vec![secret()], sign_secret: secret(), jwt_secret: secret(), ..table("**") }]);
    let denied = played(&mut rules, "token=canary-brought&expires=1&sign=canary&jwt=canary.canary.canary").unwrap_err();
    let said = format!("{denied} {denied:?} {} {rules:?}", denied.advice());
    assert!(!said.contains("canary"), "{said}");
}

/// What a client may bring in the model.
#[derive(Clone, Debug)]
struct Brought {
    token: usize,
    signed_for: Option<(bool, usize, i64)>,
    network: usize,
}

fn brought() -> impl Strategy<Value = Brought> {
    (0..4usize, proptest::option::of((any::<bool>(), 0..2usize, -2..3i64)), 0..3usize).prop_map(|(token, signed_for, network)| Brought {
        token,
        signed_for,
        network,
    })
}

/// A rule in the model: which tokens and whether a signature will do, which of three networks are allowed and denied, for whom, about which streams.
#[derive(Clone, Debug)]
struct Model {
    tokens: Vec<usize>,
    signs: bool,
    allow: Vec<usize>,
    deny: Vec<usize>,
    intent: u8,
    streams: u8,
}

fn models() -> impl Strategy<Value = Vec<Model>> {
    let list = || proptest::collection::vec(0..3usize, 0..2);
    let model = (proptest::collection::vec(1..4usize, 0..3), any::<bool>(), list(), list(), 0..3u8, 0..3u8)
        .prop_map(|(tokens, signs, allow, deny, intent, streams)| Model { tokens, signs, allow, deny, intent, streams });
    proptest::collection::vec(model, 0..4)
}

fn network(number: usize) -> Network {
    format!("10.{number}.0.0/16").parse().unwrap()
}

impl Model {
    fn table(&self) -> Access {
        Access {
            tokens: self.tokens.iter().map(|token| Secret::new(format!("token-{token}"))).collect(),
            sign_secret: if self.signs { secret() } else { Secret::default() },
            allow: self.allow.iter().copied().map(network).collect(),
            deny: self.deny.iter().copied().map(network).collect(),
            intent: [AccessIntent::Publish, AccessIntent::Play, AccessIntent::Both][usize::from(self.intent)],
            ..table(["**", "live/s0", "live/s1"][usize::from(self.streams)])
        }
    }

    fn lets_in(&self, publishes: bool, stream: usize, client: &Brought) -> bool {
        let about_intent = self.intent == 2 || publishes == (self.intent == 0);
        let about_stream = self.streams == 0 || usize::from(self.streams) == stream + 1;
        if !about_intent || !about_stream {
            return true;
        }
        let address = !self.deny.contains(&client.network) && (self.allow.is_empty() || self.allow.contains(&client.network));
        let signature =
            self.signs && client.signed_for.is_some_and(|(for_publish, of, late)| for_publish == publishes && of == stream && late >= 0);
        let asks = self.signs || !self.tokens.is_empty();
        address && (!asks || signature || self.tokens.contains(&client.token))
    }
}

proptest! {
    #[test]
    fn rules_decide_as_the_model_does(models in models(), publishes: bool, stream in 0..2usize, client in brought()) {
        let mut rules = Rules::new(&models.iter().map(Model::table).collect::<Vec<_>>());
        let intent = |publish: bool| if publish { Intent::Publish } else { Intent::Play };
        let mut params = format!("token=token-{}", client.token);
        if let Some((for_publish, of, late)) = client.signed_for {
            let expires = NOW_S.saturating_add_signed(late);
            params += &format!("&{}", sign::Secret::new(SECRET.as_bytes()).query(intent(for_publish), &key(&format!("s{of}")), expires));
        }
        let address = format!("10.{}.0.9", client.network).parse().unwrap();
        let key = key(&format!("s{stream}"));
        let asking = Asking { intent: intent(publishes), key: &key, client: address, params: &params, bearer: None, page: "", now_s: NOW_S };
        let expected = models.iter().all(|model| model.lets_in(publishes, stream, &client));
        prop_assert_eq!(rules.check(&asking).is_ok(), expected);
        // What a client may know of, it may play without bringing anything.
        let bare = Asking { intent: Intent::Play, params: "", ..asking };
        prop_assert_eq!(rules.may_know(&key, address), rules.check(&bare).is_ok());
    }

    #[test]
    fn nothing_that_is_brought_panics_or_opens(params in "(token|jwt|sign|expires|&|=|%|[a-zA-Z0-9_.%-]){0,200}", page in "\\PC{0,40}", bearer in "\\PC{0,60}") {
        let mut rules = Rules::new(&[Access { tokens: vec![secret()], sign_secret: secret(), jwt_secret: secret(), ..table("**") }]);
        let client = "192.0.2.7".parse().unwrap();
        let key = key("x");
        let asking = Asking { intent: Intent::Play, key: &key, client, params: &params, bearer: Some(&bearer), page: &page, now_s: NOW_S };
        prop_assert!(rules.check(&asking).is_err());
    }
}
