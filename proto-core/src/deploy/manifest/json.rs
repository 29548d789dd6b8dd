//! JSON (RFC 8259) to the common tree.
//!
//! `serde_json` says where a syntax error is, but not where a value is that it has read, and it takes the last of two
//! equal keys; a manifest needs the places of values that are wrong in meaning, and refuses the second key. So this is a
//! reader of its own. A property test holds it against `serde_json`: both accept the same texts and read the same values.

use std::collections::BTreeSet;

use super::tree::{Field, Kind, Node, SyntaxError};

/// How deep arrays and objects may lie in each other: far above what a manifest needs, far below what a stack holds.
const MAX_DEPTH: u32 = 64;

pub(super) fn parse(text: &str) -> Result<Node, SyntaxError> {
    let mut parser = Parser { text, at: 0, depth: 0 };
    parser.space();
    let node = parser.value()?;
    parser.space();
    if parser.at < text.len() {
        return Err(parser.error("nothing more is expected after the value"));
    }
    Ok(node)
}

/// `at` is always on a boundary between characters.
struct Parser<'a> {
    text: &'a str,
    at: usize,
    depth: u32,
}

type Parsed<T> = Result<T, SyntaxError>;

impl<'a> Parser<'a> {
    fn rest(&self) -> &'a str {
        &self.text[self.at..]
    }

    fn peek(&self) -> Option<u8> {
        self.text.as_bytes().get(self.at).copied()
    }

    fn error(&self, message: &str) -> SyntaxError {
        SyntaxError { at: self.at, message: message.to_owned(), duplicate: false }
    }

    fn space(&mut self) {
        let rest = self.rest();
        self.at += rest.len() - rest.trim_start_matches([' ', '\t', '\r', '\n']).len();
    }

    fn eat(&mut self, token: &str) -> bool {
        let found = self.rest().starts_with(token);
        self.at += if found { token.len() } else { 0 };
        found
    }

    fn value(&mut self) -> Parsed<Node> {
        let at = self.at;
        let kind =
            match self.peek() {
                Some(b'{') => self.nested(Self::object)?,
                Some(b'[') => self.nested(Self::array)?,
                Some(b'"') => Kind::String(self.string()?),
                Some(b'-' | b'0'..=b'9') => self.number()?,
                _ if self.eat("true") => Kind::Bool(true),
                _ if self.eat("false") => Kind::Bool(false),
                _ if self.eat("null") => Kind::Null,
                _ => return Err(self.error(
                    "a value is expected: an object, array, string, number, true, false or null",
                )),
            };
        Ok(Node { at, kind })
    }

    fn nested(&mut self, read: fn(&mut Self) -> Parsed<Kind>) -> Parsed<Kind> {
        if self.depth == MAX_DEPTH {
            return Err(self.error("nested too deeply"));
        }
        self.depth += 1;
        self.at += 1;
        self.space();
        let kind = read(self)?;
        self.depth -= 1;
        Ok(kind)
    }

    fn array(&mut self) -> Parsed<Kind> {
        let mut items = Vec::new();
        if self.eat("]") {
            return Ok(Kind::Array(items));
        }
        loop {
            items.push(self.value()?);
            self.space();
            if self.eat("]") {
                return Ok(Kind::Array(items));
            }
            if !self.eat(",") {
                return Err(self.error("`,` or `]` is expected"));
            }
            self.space();
        }
    }

    fn object(&mut self) -> Parsed<Kind> {
        let mut fields = Vec::new();
        let mut seen = BTreeSet::new();
        if self.eat("}") {
            return Ok(Kind::Table(fields));
        }
        loop {
            let at = self.at;
            if self.peek() != Some(b'"') {
                return Err(self.error("a key in double quotes is expected"));
            }
            let key = self.string()?;
            if !seen.insert(key.clone()) {
                return Err(SyntaxError::duplicate(at, &key));
            }
            self.space();
            if !self.eat(":") {
                return Err(self.error("`:` is expected"));
            }
            self.space();
            fields.push(Field { key, at, value: self.value()? });
            self.space();
            if self.eat("}") {
                return Ok(Kind::Table(fields));
            }
            if !self.eat(",") {
                return Err(self.error("`,` or `}` is expected"));
            }
            self.space();
        }
    }

    /// At the opening quote.
    fn string(&mut self) -> Parsed<String> {
        let mut text = String::new();
        self.at += 1;
        loop {
            let Some(c) = self.rest().chars().next() else {
                return Err(self.error("the string does not end"));
            };
            match c {
                '"' => {
                    self.at += 1;
                    return Ok(text);
                }
                '\\' => text.push(self.escape()?),
                '\0'..='\x1f' => {
                    return Err(self.error("a control character in a string must be escaped"));
                }
                c => {
                    self.at += c.len_utf8();
                    text.push(c);
                }
            }
        }
    }

    /// At the backslash.
    fn escape(&mut self) -> Parsed<char> {
        let start = self.at;
        let error = |message: &str| SyntaxError {
            at: start,
            message: message.to_owned(),
            duplicate: false,
        };
        self.at += 1;
        let letter = self.peek();
        let simple = match letter {
            Some(b @ (b'"' | b'\\' | b'/')) => char::from(b),
            Some(b'b') => '\x08',
            Some(b'f') => '\x0c',
            Some(b'n') => '\n',
            Some(b'r') => '\r',
            Some(b't') => '\t',
            Some(b'u') => {
                self.at += 1;
                let first = self
                    .hex4()
                    .ok_or_else(|| error("four hexadecimal digits are expected after \\u"))?;
                let code = match first {
                    0xd800..=0xdbff => {
                        let low = if self.eat("\\u") { self.hex4() } else { None };
                        match low {
                            Some(low @ 0xdc00..=0xdfff) => {
                                0x10000 + ((first - 0xd800) << 10) + (low - 0xdc00)
                            }
                            _ => return Err(error("half of a surrogate pair")),
                        }
                    }
                    code => code,
                };
                return char::from_u32(code).ok_or_else(|| error("half of a surrogate pair"));
            }
            _ => return Err(error("no such escape")),
        };
        self.at += 1;
        Ok(simple)
    }

    fn hex4(&mut self) -> Option<u32> {
        let digits = self.text.get(self.at..self.at + 4)?;
        if !digits.bytes().all(|b| b.is_ascii_hexdigit()) {
            return None;
        }
        self.at += 4;
        u32::from_str_radix(digits, 16).ok()
    }

    fn digits(&mut self) -> Parsed<()> {
        let rest = self.rest();
        let count = rest.len() - rest.trim_start_matches(|c: char| c.is_ascii_digit()).len();
        if count == 0 {
            return Err(self.error("a digit is expected"));
        }
        self.at += count;
        Ok(())
    }

    fn number(&mut self) -> Parsed<Kind> {
        let start = self.at;
        self.eat("-");
        let zero = self.peek() == Some(b'0');
        if zero {
            self.at += 1;
            if self.peek().is_some_and(|b| b.is_ascii_digit()) {
                return Err(self.error("a number does not start with 0"));
            }
        } else {
            self.digits()?;
        }
        let mut integer = true;
        if self.eat(".") {
            integer = false;
            self.digits()?;
        }
        if self.eat("e") || self.eat("E") {
            integer = false;
            let _sign = self.eat("+") || self.eat("-");
            self.digits()?;
        }
        let text = &self.text[start..self.at];
        let whole = if integer { text.parse::<i128>().ok() } else { None };
        // The grammar above is a part of what `f64` reads; what is too large becomes infinite.
        Ok(whole.map_or_else(|| Kind::Float(text.parse().unwrap_or(f64::NAN)), Kind::Integer))
    }
}
