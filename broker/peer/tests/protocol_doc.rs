//! `docs/protocol.md` says what the code does.
//!
//! Its generated parts are made here, from the sources and from two ends that
//! talk; to bring them up to date:
//! `cargo test -p tidegate-peer --test protocol_doc -- --ignored`. The byte
//! tables are written by hand, and held against the golden bytes.

mod samples;

use std::fmt::Write as _;
use std::path::PathBuf;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use hmac::{Hmac, KeyInit, Mac};
use samples::{SECRET, hello, secret};
use sha2::{Digest, Sha256};
use tidegate_peer::frame::{Flags, Parsed, parse, whole};
use tidegate_peer::limits::{FRAME_BODY_BYTES_MAX, HEADER_BYTES};
use tidegate_peer::*;

const TYPES: &str = include_str!("../src/message_type.rs");
const REASONS: &str = include_str!("../src/reason.rs");
const BOUNDS: &str = include_str!("../src/limits.rs");
const SCHEMA: [&str; 11] = [
    include_str!("../src/ids.rs"),
    include_str!("../src/proto/mod.rs"),
    include_str!("../src/proto/raft.rs"),
    include_str!("../src/proto/lease.rs"),
    include_str!("../src/proto/route.rs"),
    include_str!("../src/proto/claim.rs"),
    include_str!("../src/proto/partition.rs"),
    include_str!("../src/proto/retained.rs"),
    include_str!("../src/proto/drain.rs"),
    include_str!("../src/proto/snapshot.rs"),
    include_str!("../src/proto/meta.rs"),
];

const NOW: Duration = Duration::ZERO;

fn path() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../docs/protocol.md")
}

#[allow(clippy::disallowed_methods, reason = "a test's own files")]
fn doc() -> String {
    std::fs::read_to_string(path()).expect("docs/protocol.md")
}

#[test]
fn the_generated_parts_are_up_to_date() {
    let doc = doc();
    for (name, text) in generated() {
        assert_eq!(part(&doc, name), text, "part {name}: see the head of this test");
    }
}

#[test]
#[ignore = "writes the generated parts of docs/protocol.md"]
#[allow(clippy::disallowed_methods, reason = "a test's own files")]
fn write() {
    let mut doc = doc();
    for (name, text) in generated() {
        let from = part(&doc, name).as_ptr() as usize - doc.as_ptr() as usize;
        let to = from + part(&doc, name).len();
        doc.replace_range(from..to, &text);
    }
    std::fs::write(path(), doc).expect("written");
}

/// What is between the marks.
fn part<'a>(doc: &'a str, name: &str) -> &'a str {
    let (_, behind) = doc
        .split_once(&format!("<!-- generated: {name} -->\n"))
        .unwrap_or_else(|| panic!("part {name} is there"));
    behind.split_once("<!-- /generated -->").expect("closed").0
}

fn generated() -> Vec<(&'static str, String)> {
    vec![
        ("types", types()),
        ("schema", schema()),
        ("reasons", reasons()),
        ("bounds", bounds()),
        ("handshake", handshake()),
        ("enqueue", block("the frame", &enqueue())),
        ("split", split()),
        ("refused", refused()),
    ]
}

/// Doc comments and the line that they are about, of lines that `is_wanted`.
fn documented(source: &str, is_wanted: impl Fn(&str) -> bool) -> Vec<(String, &str)> {
    let (mut found, mut doc) = (Vec::new(), String::new());
    for line in source.lines().map(str::trim) {
        if let Some(text) = line.strip_prefix("///") {
            if !doc.is_empty() {
                doc.push(' ');
            }
            doc.push_str(text.trim());
        } else if is_wanted(line) {
            found.push((std::mem::take(&mut doc), line));
        } else if !line.starts_with("#[") {
            doc.clear();
        }
    }
    found
}

fn doc_of(found: &[(String, &str)], name: &str) -> String {
    let of = found.iter().find(|(_, line)| line.split(' ').next() == Some(name));
    of.unwrap_or_else(|| panic!("{name} is documented")).0.clone()
}

fn types() -> String {
    let found = documented(TYPES, |line| line.contains(" = 0x") && line.ends_with(';'));
    let mut out = "| type | code | | body | |\n|---|---|---|---|---|\n".to_owned();
    for kind in MessageType::ALL {
        let (code, name, text) = (kind.code(), kind.name(), doc_of(&found, kind.name()));
        let form = match kind.form() {
            Form::Hand => "hand",
            Form::Proto => "proto",
        };
        let places = [
            (ConnectionKind::Control, "C"),
            (ConnectionKind::Data, "D"),
            (ConnectionKind::Bulk, "B"),
        ];
        let places: Vec<_> =
            places.iter().filter(|(place, _)| kind.is_allowed_on(*place)).map(|p| p.1).collect();
        let mut places = places.join(" ");
        if places.is_empty() {
            places = "handshake".into();
        }
        if kind.is_of_link() {
            places += ", lane 0";
        }
        writeln!(out, "| {name} | 0x{code:04X} | {places} | {form} | {text} |").expect("a string");
    }
    out
}

fn reasons() -> String {
    let found = documented(REASONS, |line| line.contains(" = ") && line.ends_with("\";"));
    let mut out = "| code | reason | |\n|---|---|---|\n".to_owned();
    for reason in Reason::ALL {
        let text = doc_of(&found, &format!("{reason:?}"));
        writeln!(out, "| {} | `{}` | {text} |", reason.code(), reason.name()).expect("a string");
    }
    out
}

fn bounds() -> String {
    let found = documented(BOUNDS, |line| line.starts_with("pub const"));
    let mut out = "| bound | | what |\n|---|---|---|\n".to_owned();
    for (text, line) in found {
        let (name, value) = line.split_once(" = ").expect("a constant");
        let name = name.trim_start_matches("pub const ").split(':').next().expect("a name");
        let value = value.trim_end_matches(';');
        let value = match value.strip_prefix("Duration::from_secs(") {
            Some(seconds) => format!("{} s", seconds.trim_end_matches(')')),
            None => thousands(evaluate(value)),
        };
        // As section 10 calls them.
        let text = Reason::ALL.iter().fold(text, |text, reason| {
            text.replace(&format!("`{reason:?}`"), &format!("`{}`", reason.name()))
        });
        writeln!(out, "| `{name}` | {value} | {text} |").expect("a string");
    }
    out
}

fn evaluate(expression: &str) -> u64 {
    let number = |text: &str| text.trim().replace('_', "").parse::<u64>().expect("a number");
    match expression.split_once("<<") {
        Some((value, shift)) => number(value) << number(shift),
        None => number(expression),
    }
}

fn thousands(number: u64) -> String {
    let digits = number.to_string();
    let mut out = String::new();
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            out.push(',');
        }
        out.push(digit);
    }
    out
}

/// The structs as a `.proto` file.
fn schema() -> String {
    let mut out = "```proto\nsyntax = \"proto3\";\n".to_owned();
    for source in SCHEMA {
        let mut doc = String::new();
        let (mut attribute, mut is_open, mut prefix) = ("", false, None);
        let mut is_message = false;
        for line in source.lines() {
            let line = line.trim();
            if let Some(text) = line.strip_prefix("///") {
                doc += text;
                continue;
            }
            if line.starts_with("#[derive") {
                is_message = line.contains("prost::Message");
                prefix = line.contains("prost::Enumeration").then(String::new);
            } else if line.starts_with("#[prost(") {
                attribute = line;
            } else if let Some(name) = line.strip_prefix("pub struct ").filter(|_| is_message) {
                let name = name.trim_end_matches(" {");
                write!(out, "\n//{doc}\nmessage {name} {{\n").expect("a string");
                is_open = true;
            } else if let Some(name) = line.strip_prefix("pub enum ").filter(|_| prefix.is_some()) {
                let name = name.trim_end_matches(" {");
                prefix = Some(screaming(name));
                write!(out, "\n//{doc}\nenum {name} {{\n").expect("a string");
                is_open = true;
            } else if is_open && line == "}" {
                out += "}\n";
                is_open = false;
            } else if is_open && let Some(prefix) = &prefix {
                let (name, value) = line.trim_end_matches(',').split_once(" = ").expect("a value");
                let name = screaming(name);
                writeln!(out, "  {prefix}_{name} = {value}; //{doc}").expect("a string");
            } else if is_open && line.starts_with("pub ") {
                let (name, of) = line[4..].trim_end_matches(',').split_once(": ").expect("a field");
                writeln!(
                    out,
                    "  {} {name} = {}; //{doc}",
                    field_type(attribute, of),
                    tag(attribute)
                )
                .expect("a string");
            }
            if !line.starts_with("#[") {
                doc.clear();
            }
        }
    }
    out + "```\n"
}

fn tag(attribute: &str) -> &str {
    let (_, behind) = attribute.split_once("tag = \"").expect("a tag");
    behind.split_once('"').expect("closed").0
}

/// `uint64`, `optional uint32`, `repeated RouteChange`, …
fn field_type(attribute: &str, of: &str) -> String {
    let inside = attribute.trim_start_matches("#[prost(");
    let words: Vec<_> = inside.split(", ").collect();
    let name = match words[0].split_once(" = ") {
        Some(("enumeration", name)) => name.trim_matches('"').to_owned(),
        Some((kind, _)) => kind.to_owned(),
        None if words[0] == "message" => {
            let (_, inner) = of.split_once('<').expect("in an Option or a Vec");
            inner.trim_end_matches('>').to_owned()
        }
        None => words[0].to_owned(),
    };
    if words.contains(&"repeated") {
        format!("repeated {name}")
    } else if words.contains(&"optional") && words[0] != "message" {
        format!("optional {name}")
    } else {
        name
    }
}

fn screaming(name: &str) -> String {
    let mut out = String::new();
    for (at, letter) in name.chars().enumerate() {
        if at > 0 && letter.is_uppercase() {
            out.push('_');
        }
        out.push(letter.to_ascii_uppercase());
    }
    out
}

fn block(title: &str, bytes: &[u8]) -> String {
    let mut out = format!("```text\n{title}, {} bytes\n", bytes.len());
    for (at, row) in bytes.chunks(16).enumerate() {
        let row: Vec<_> = row.iter().map(|byte| format!("{byte:02x}")).collect();
        writeln!(out, "{:04x}  {}", at * 16, row.join(" ")).expect("a string");
    }
    out + "```\n"
}

/// The four frames, as two ends send them.
fn frames() -> [Bytes; 4] {
    let local = |node, nonce| Local { hello: hello(node, nonce), auth: secret() };
    let met = Acquaintances::default();
    let (mut caller, first) = Handshake::call(local(1, 0xAA), NOW);
    let mut called = Handshake::answer(local(2, 0xBB), NOW);
    let give = |end: &mut Handshake, frame: &Bytes| match end
        .receive(&mut BytesMut::from(&frame[..]), &met)
        .expect("no fault")
    {
        Step::Send(bytes) => bytes,
        Step::Established { send, .. } => send.unwrap_or_default(),
        Step::NeedMore(_) => panic!("a whole frame"),
    };
    let second = give(&mut called, &first);
    let third = give(&mut caller, &second);
    let fourth = give(&mut called, &third);
    assert_eq!(give(&mut caller, &fourth), Bytes::new());
    [first, second, third, fourth]
}

fn handshake() -> String {
    let titles = ["Hello, node 1 to 2", "Hello, node 2 to 1", "Proof, 1 to 2", "Welcome, 2 to 1"];
    frames().iter().zip(titles).map(|(frame, title)| block(title, frame)).collect()
}

#[test]
fn the_proofs_are_what_the_page_says() {
    let [first, second, third, fourth] = frames();
    let hash = |frame: &Bytes| Sha256::digest(&frame[HEADER_BYTES..]);
    let mac = |parts: &[&[u8]]| -> [u8; 32] {
        let mut mac = Hmac::<Sha256>::new_from_slice(SECRET).expect("any length");
        parts.iter().for_each(|part| mac.update(part));
        mac.finalize().into_bytes().into()
    };
    let (caller, called) = (hash(&first), hash(&second));
    let proof = mac(&[b"tidegate peer 1 caller", &caller, &called]);
    assert_eq!(third[HEADER_BYTES + 4..], proof);
    let agreed: [&[u8]; 2] = [&[1, 0], &[0b101, 0, 0, 0, 0, 0, 0, 0]];
    let proof = mac(&[b"tidegate peer 1 called", &caller, &called, agreed[0], agreed[1]]);
    assert_eq!(fourth[HEADER_BYTES + 16..], proof);
}

fn sample(name: &str) -> (Lane, Message) {
    let (_, lane, message) =
        samples::all().into_iter().find(|(of, ..)| *of == name).expect("a sample");
    (lane, message)
}

fn enqueue() -> Bytes {
    let (lane, message) = sample("enqueue");
    samples::frame_of(lane, &message)
}

fn split_frames() -> [Bytes; 2] {
    let (lane, message) = sample("enqueue");
    let body = message.encode().to_bytes();
    let code = message.message_type().code();
    let total = u32::try_from(body.len()).expect("short").to_le_bytes();
    let first = [&total[..], &body[..40]].concat();
    [whole(code, Flags::MORE, lane, &first), whole(code, Flags::CONTINUED, lane, &body[40..])]
}

fn split() -> String {
    let [first, second] = split_frames();
    block("the first frame", &first) + &block("the second", &second)
}

#[test]
fn the_split_example_is_the_same_message() {
    let established = Established {
        peer: hello(2, 0xBB),
        proto: 1,
        features: 0,
        is_caller: false,
        config_differs: false,
        lane_credit: 1 << 20,
        link_credit: 1 << 20,
        lanes_max: 16,
    };
    let mut link = Link::new(&established);
    let mut bytes = BytesMut::from(&split_frames().concat()[..]);
    let Ok(Received::Message { message, .. }) = link.receive(&mut bytes) else {
        panic!("a message");
    };
    assert_eq!(message, sample("enqueue").1);
}

fn refused() -> String {
    let local = Local { hello: hello(2, 0xBB), auth: secret() };
    let mut called = Handshake::answer(local, NOW);
    let failure = called.receive(&mut BytesMut::from(&b"GET "[..]), &Acquaintances::default());
    let goodbye = failure.expect_err("refused").send.expect("told");
    block("Goodbye", &goodbye)
}

/// Rows of the byte tables of a section: offset, size, field.
fn tables(section: &str) -> Vec<Vec<(usize, usize)>> {
    let (mut tables, mut rows) = (Vec::new(), Vec::new());
    for line in section.lines().chain([""]) {
        let cells: Vec<_> = line.trim_matches('|').split('|').map(str::trim).collect();
        match (line.starts_with('|'), cells[..].first_chunk::<3>()) {
            (true, Some([at, size, _])) => {
                if let (Ok(at), Ok(size)) = (at.parse(), size.parse()) {
                    rows.push((at, size));
                }
            }
            (true, None) => {}
            (false, _) if rows.is_empty() => {}
            (false, _) => tables.push(std::mem::take(&mut rows)),
        }
    }
    tables
}

#[test]
fn byte_tables_have_no_gaps_and_end_where_the_headers_do() {
    let doc = doc();
    let mut seen = 0;
    for section in doc.split("\n### ").skip(1) {
        let section = section.split("\n## ").next().expect("itself");
        let title = section.lines().next().expect("a title");
        let Some((name, code)) = title.split_once(" (0x") else { continue };
        let code = u16::from_str_radix(code.trim_end_matches(')'), 16).expect("a code");
        let kind = MessageType::from_code(code).expect("a type");
        assert_eq!(kind.name(), name);
        let tables = tables(section);
        for table in &tables {
            let mut end = 0;
            for (at, size) in table {
                assert_eq!(*at, end, "{title}: a gap, or an overlap");
                end += size;
            }
        }
        // Of an Append the header grows with its entries.
        let sample = if name == "Append" { "append_empty".into() } else { snake(name) };
        let body = self::sample(&sample).1.encode().to_bytes();
        let header_len = usize::from(u16::from_le_bytes([body[1], body[2]]));
        let (at, size) = *tables[0].last().expect("rows");
        assert_eq!(at + size, header_len, "{title}");
        seen += 1;
    }
    let by_hand = MessageType::ALL.iter().filter(|kind| kind.form() == Form::Hand).count();
    assert_eq!(seen, by_hand - 1, "all but the Pong, which is a Ping");
}

fn snake(name: &str) -> String {
    screaming(name).to_lowercase()
}

#[test]
fn the_worked_example_is_made_of_frames() {
    let doc = doc();
    let (_, example) = doc.split_once("## 13.").expect("the example");
    let mut frames = 0;
    for block in example.split("```text\n").skip(1) {
        let block = block.split("```").next().expect("closed");
        let digits = block.lines().skip(1).flat_map(|line| line.split(' ').skip(2));
        let bytes: Vec<u8> =
            digits.map(|byte| u8::from_str_radix(byte, 16).expect("hexadecimal")).collect();
        let Ok(Parsed::Frame(header)) = parse(&bytes, FRAME_BODY_BYTES_MAX) else {
            panic!("not a frame: {block}");
        };
        assert_eq!(bytes.len(), HEADER_BYTES + header.len as usize);
        frames += 1;
    }
    assert_eq!(frames, 8);
}
