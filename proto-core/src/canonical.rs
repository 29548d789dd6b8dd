//! The canonical encoding: JSON with the keys of each object in order and no white space. Two values that are equal as JSON have equal
//! encodings, however the types that they were written from order their fields.

use std::io::{self, Write};
use std::ops::Range;

use serde::Serialize;
use serde_json::ser::{CharEscape, CompactFormatter, Formatter, Serializer};

/// The canonical encoding of a value.
///
/// # Errors
///
/// A value that JSON cannot hold: a map with keys that are no strings or numbers.
pub(crate) fn encode<T: Serialize + ?Sized>(value: &T) -> serde_json::Result<Vec<u8>> {
    let mut out = Vec::new();
    value.serialize(&mut Serializer::with_formatter(&mut out, Sorting::default()))?;
    Ok(out)
}

/// One field of an object that is being written: where it is in the buffer.
#[derive(Debug, Clone)]
struct Field {
    /// With its quotes.
    key: Range<usize>,
    /// Key, colon and value.
    whole: Range<usize>,
}

/// Holds back what is inside an object until its fields can be put in order.
///
/// What JSON says is what [`CompactFormatter`] writes; only where it goes is decided here.
#[derive(Debug, Default)]
struct Sorting {
    /// The outermost open object, as far as it is written.
    held: Vec<u8>,
    /// The fields of all open objects, those of the innermost last.
    fields: Vec<Field>,
    /// For each open object: where its first field is in `fields`.
    open: Vec<usize>,
    /// The fields of one object in order, kept for its memory.
    sorted: Vec<u8>,
}

impl Sorting {
    /// The object that ends has its fields in `held` from the first one's start to the end.
    fn sort(&mut self) {
        let first = self.open.pop().unwrap_or(0);
        let (Some(Field { whole, .. }), held) = (self.fields.get(first), &mut self.held) else {
            return;
        };
        let start = whole.start;
        let fields = &mut self.fields[first..];
        // Without the quotes: a key sorts before those that it begins.
        let key = |field: &Field| &held[field.key.start + 1..field.key.end - 1];
        if !fields.is_sorted_by_key(key) {
            fields.sort_by(|a, b| key(a).cmp(key(b)));
            self.sorted.clear();
            for (at, field) in fields.iter().enumerate() {
                if at > 0 {
                    self.sorted.push(b',');
                }
                self.sorted.extend_from_slice(&held[field.whole.clone()]);
            }
            held.truncate(start);
            held.extend_from_slice(&self.sorted);
        }
        self.fields.truncate(first);
    }
}

/// Each of these writes what it writes in a compact document, to where the document is at.
macro_rules! as_compact {
    ($($name:ident($($value:ident: $type:ty)?);)*) => {
        $(fn $name<W: Write + ?Sized>(&mut self, out: &mut W $(, $value: $type)?) -> io::Result<()> {
            if self.open.is_empty() {
                CompactFormatter.$name(out $(, $value)?)
            } else {
                CompactFormatter.$name(&mut self.held $(, $value)?)
            }
        })*
    };
}

impl Formatter for Sorting {
    as_compact! {
        write_null();
        write_bool(value: bool);
        write_i8(value: i8);
        write_i16(value: i16);
        write_i32(value: i32);
        write_i64(value: i64);
        write_i128(value: i128);
        write_u8(value: u8);
        write_u16(value: u16);
        write_u32(value: u32);
        write_u64(value: u64);
        write_u128(value: u128);
        write_f32(value: f32);
        write_f64(value: f64);
        write_number_str(value: &str);
        begin_string();
        end_string();
        write_string_fragment(fragment: &str);
        write_char_escape(escape: CharEscape);
        begin_array();
        end_array();
        begin_array_value(first: bool);
        end_array_value();
        write_raw_fragment(fragment: &str);
    }

    fn begin_object<W: Write + ?Sized>(&mut self, _: &mut W) -> io::Result<()> {
        self.open.push(self.fields.len());
        CompactFormatter.begin_object(&mut self.held)
    }

    fn begin_object_key<W: Write + ?Sized>(&mut self, _: &mut W, first: bool) -> io::Result<()> {
        CompactFormatter.begin_object_key(&mut self.held, first)?;
        let at = self.held.len();
        self.fields.push(Field { key: at..at, whole: at..at });
        Ok(())
    }

    fn end_object_key<W: Write + ?Sized>(&mut self, _: &mut W) -> io::Result<()> {
        let end = self.held.len();
        if let Some(field) = self.fields.last_mut() {
            field.key.end = end;
        }
        CompactFormatter.end_object_key(&mut self.held)
    }

    fn begin_object_value<W: Write + ?Sized>(&mut self, _: &mut W) -> io::Result<()> {
        CompactFormatter.begin_object_value(&mut self.held)
    }

    fn end_object_value<W: Write + ?Sized>(&mut self, _: &mut W) -> io::Result<()> {
        let end = self.held.len();
        if let Some(field) = self.fields.last_mut() {
            field.whole.end = end;
        }
        CompactFormatter.end_object_value(&mut self.held)
    }

    fn end_object<W: Write + ?Sized>(&mut self, out: &mut W) -> io::Result<()> {
        self.sort();
        CompactFormatter.end_object(&mut self.held)?;
        if self.open.is_empty() {
            out.write_all(&self.held)?;
            self.held.clear();
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;
    use serde_json::{Value, json};

    use super::*;
    use crate::digest::tests::value;

    fn text(value: &impl Serialize) -> String {
        String::from_utf8(encode(value).unwrap()).unwrap()
    }

    #[derive(Serialize)]
    struct Fields {
        b: u64,
        ab: Option<BTreeMap<u32, bool>>,
        a: Vec<Inner>,
        #[serde(rename = "a!")]
        bang: (),
    }

    #[derive(Serialize)]
    struct Inner {
        y: &'static str,
        x: i64,
    }

    #[test]
    fn fields_are_in_the_order_of_their_keys_and_not_of_the_type() {
        let a = vec![Inner { y: "\"\n", x: -1 }, Inner { y: "}", x: 2 }];
        let fields = Fields { b: u64::MAX, ab: Some([(7, true)].into()), a, bang: () };
        let wanted = r#"{"a":[{"x":-1,"y":"\"\n"},{"x":2,"y":"}"}],"a!":null,"ab":{"7":true},"b":18446744073709551615}"#;
        assert_eq!(text(&fields), wanted);
        assert_eq!(text(&(1, &fields, "z")), format!("[1,{wanted},\"z\"]"));
    }

    #[test]
    fn what_holds_no_object_is_written_as_it_is() {
        for value in [json!(null), json!([]), json!({}), json!([{}, [1, "a"], 2.5])] {
            assert_eq!(text(&value), value.to_string());
        }
    }

    proptest! {
        // `serde_json::Value` keeps its objects sorted.
        #[test]
        fn it_is_what_a_sorted_value_writes(value in value()) {
            prop_assert_eq!(text(&value), value.to_string());
        }

        #[test]
        fn the_order_of_writing_does_not_matter(fields in prop::collection::btree_map("[a-c!\"]{0,2}", value(), 0..5)) {
            struct Backwards<'a>(&'a BTreeMap<String, Value>);
            impl Serialize for Backwards<'_> {
                fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                    serializer.collect_map(self.0.iter().rev())
                }
            }
            prop_assert_eq!(text(&Backwards(&fields)), text(&fields));
        }
    }
}
