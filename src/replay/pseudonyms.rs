//! Texts and ids behind pseudonyms: the same for the same, under a key that nobody keeps.
//!
//! Every text is replaced unless it is known to be one of ours, so that a field which is added later is
//! covered from its first day. The names of fields and variants are ours by nature: they are no texts.

use serde::Serialize;
use serde::ser::{self, SerializeMap, SerializeStruct, SerializeStructVariant};
use serde_json::{Map, Value};
use std::collections::BTreeMap;
use std::fmt::{self, Display};
use uuid::Uuid;

/// Characters of a pseudonym, 40 bits: of a million texts, two are hardly ever the same.
const CHARS: usize = 10;

/// Components that are named as who acted.
const ACTORS: [&str; 7] =
    ["agent", "timer", "monitor", "supervisor", "configuration", "operator", "demo"];

/// Facts of a failure whose words are Lifeboat's own.
const OWN_FACTS: [&str; 2] = ["operation", "cycle"];

/// Replaces texts and ids.
#[derive(Debug)]
pub(super) struct Pseudonyms {
    key: [u8; 32],
    /// Ids whose pseudonyms follow from others, as job ids follow from their VM's.
    following: BTreeMap<Uuid, Uuid>,
}

impl Pseudonyms {
    pub(super) fn new(key: [u8; 32]) -> Self {
        Self { key, following: BTreeMap::new() }
    }

    /// The pseudonym of an id.
    pub(super) fn id(&self, id: Uuid) -> Uuid {
        if id.is_nil() {
            return id;
        }
        self.following.get(&id).copied().unwrap_or_else(|| {
            let mut bytes = [0; 16];
            self.hash(id.as_bytes()).fill(&mut bytes);
            uuid::Builder::from_custom_bytes(bytes).into_uuid()
        })
    }

    /// Has an id replaced by this one from here on.
    pub(super) fn follow(&mut self, id: Uuid, by: Uuid) {
        self.following.insert(id, by);
    }

    /// The pseudonym of a text: what it is, and characters that follow from it.
    pub(super) fn text(&self, what: &str, text: &str) -> String {
        if let Ok(id) = Uuid::parse_str(text) {
            return self.id(id).to_string();
        }
        let is_number = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
        if text.is_empty() || is_number || OWN_FACTS.contains(&what) {
            return text.to_owned();
        }
        let hash = self.hash(text.as_bytes());
        let mut bytes = [0; CHARS / 2];
        { hash }.fill(&mut bytes);
        let hex = bytes.iter().fold(String::new(), |hex, byte| format!("{hex}{byte:02x}"));
        format!("{}-{hex}", what.to_lowercase())
    }

    /// The pseudonym of who acted: components keep their names.
    pub(super) fn actor(&self, actor: &str) -> String {
        if ACTORS.contains(&actor) {
            return actor.to_owned();
        }
        match actor.split_once('/').map(|(kind, id)| (kind, Uuid::parse_str(id))) {
            Some((kind, Ok(id))) => format!("{kind}/{}", self.id(id)),
            _ => self.text("person", actor),
        }
    }

    /// A value as JSON with its texts and ids replaced.
    pub(super) fn veil(&self, value: &impl Serialize) -> Result<Value, Unveilable> {
        value.serialize(Veil { pseudonyms: self, what: "text" })
    }

    fn hash(&self, bytes: &[u8]) -> blake3::OutputReader {
        blake3::Hasher::new_keyed(&self.key).update(bytes).finalize_xof()
    }
}

/// Why a value cannot be told in pseudonyms.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct Unveilable(String);

impl ser::Error for Unveilable {
    fn custom<T: Display>(what: T) -> Self {
        Self(what.to_string())
    }
}

/// Writes a value as JSON, its texts as pseudonyms.
#[derive(Clone, Copy)]
struct Veil<'a> {
    pseudonyms: &'a Pseudonyms,
    /// The field that is being written.
    what: &'a str,
}

impl<'a> Veil<'a> {
    fn of<'b>(&self, what: &'b str) -> Veil<'b>
    where
        'a: 'b,
    {
        Veil { pseudonyms: self.pseudonyms, what }
    }
}

/// A list under way; in a variant of an enum, or by itself.
struct Items<'a> {
    veil: Veil<'a>,
    variant: Option<&'static str>,
    values: Vec<Value>,
}

/// Fields under way, likewise.
struct Fields<'a> {
    veil: Veil<'a>,
    variant: Option<&'static str>,
    values: Map<String, Value>,
    key: String,
}

fn wrapped(variant: Option<&'static str>, value: Value) -> Value {
    match variant {
        None => value,
        Some(variant) => Value::Object(Map::from_iter([(variant.to_owned(), value)])),
    }
}

macro_rules! plain {
    ($($name:ident: $type:ty),+ $(,)?) => {$(
        fn $name(self, value: $type) -> Result<Value, Unveilable> {
            Ok(Value::from(value))
        }
    )+};
}

impl<'a> ser::Serializer for Veil<'a> {
    type Ok = Value;
    type Error = Unveilable;
    type SerializeSeq = Items<'a>;
    type SerializeTuple = Items<'a>;
    type SerializeTupleStruct = Items<'a>;
    type SerializeTupleVariant = Items<'a>;
    type SerializeMap = Fields<'a>;
    type SerializeStruct = Fields<'a>;
    type SerializeStructVariant = Fields<'a>;

    plain!(
        serialize_bool: bool,
        serialize_i8: i8,
        serialize_i16: i16,
        serialize_i32: i32,
        serialize_i64: i64,
        serialize_u8: u8,
        serialize_u16: u16,
        serialize_u32: u32,
        serialize_u64: u64,
        serialize_f32: f32,
        serialize_f64: f64,
    );

    fn serialize_char(self, value: char) -> Result<Value, Unveilable> {
        self.serialize_str(value.encode_utf8(&mut [0; 4]))
    }

    fn serialize_str(self, value: &str) -> Result<Value, Unveilable> {
        Ok(Value::String(self.pseudonyms.text(self.what, value)))
    }

    fn serialize_bytes(self, _: &[u8]) -> Result<Value, Unveilable> {
        Err(ser::Error::custom("bytes cannot be told in pseudonyms"))
    }

    fn serialize_none(self) -> Result<Value, Unveilable> {
        Ok(Value::Null)
    }

    fn serialize_some<T: Serialize + ?Sized>(self, value: &T) -> Result<Value, Unveilable> {
        value.serialize(self)
    }

    fn serialize_unit(self) -> Result<Value, Unveilable> {
        Ok(Value::Null)
    }

    fn serialize_unit_struct(self, _: &'static str) -> Result<Value, Unveilable> {
        Ok(Value::Null)
    }

    fn serialize_unit_variant(
        self,
        _: &'static str,
        _: u32,
        variant: &'static str,
    ) -> Result<Value, Unveilable> {
        Ok(Value::String(variant.to_owned()))
    }

    fn serialize_newtype_struct<T: Serialize + ?Sized>(
        self,
        _: &'static str,
        value: &T,
    ) -> Result<Value, Unveilable> {
        value.serialize(self)
    }

    fn serialize_newtype_variant<T: Serialize + ?Sized>(
        self,
        _: &'static str,
        _: u32,
        variant: &'static str,
        value: &T,
    ) -> Result<Value, Unveilable> {
        Ok(wrapped(Some(variant), value.serialize(self.of(variant))?))
    }

    fn serialize_seq(self, _: Option<usize>) -> Result<Items<'a>, Unveilable> {
        Ok(Items { veil: self, variant: None, values: Vec::new() })
    }

    fn serialize_tuple(self, _: usize) -> Result<Items<'a>, Unveilable> {
        self.serialize_seq(None)
    }

    fn serialize_tuple_struct(self, _: &'static str, _: usize) -> Result<Items<'a>, Unveilable> {
        self.serialize_seq(None)
    }

    fn serialize_tuple_variant(
        self,
        _: &'static str,
        _: u32,
        variant: &'static str,
        _: usize,
    ) -> Result<Items<'a>, Unveilable> {
        Ok(Items { veil: self, variant: Some(variant), values: Vec::new() })
    }

    fn serialize_map(self, _: Option<usize>) -> Result<Fields<'a>, Unveilable> {
        Ok(Fields { veil: self, variant: None, values: Map::new(), key: String::new() })
    }

    fn serialize_struct(self, _: &'static str, _: usize) -> Result<Fields<'a>, Unveilable> {
        self.serialize_map(None)
    }

    fn serialize_struct_variant(
        self,
        _: &'static str,
        _: u32,
        variant: &'static str,
        _: usize,
    ) -> Result<Fields<'a>, Unveilable> {
        Ok(Fields { variant: Some(variant), ..self.serialize_map(None)? })
    }
}

impl Items<'_> {
    fn push<T: Serialize + ?Sized>(&mut self, value: &T) -> Result<(), Unveilable> {
        self.values.push(value.serialize(self.veil)?);
        Ok(())
    }

    fn finish(self) -> Value {
        wrapped(self.variant, Value::Array(self.values))
    }
}

macro_rules! items {
    ($($trait:ident :: $method:ident),+ $(,)?) => {$(
        impl ser::$trait for Items<'_> {
            type Ok = Value;
            type Error = Unveilable;

            fn $method<T: Serialize + ?Sized>(&mut self, value: &T) -> Result<(), Unveilable> {
                self.push(value)
            }

            fn end(self) -> Result<Value, Unveilable> {
                Ok(self.finish())
            }
        }
    )+};
}

items!(
    SerializeSeq::serialize_element,
    SerializeTuple::serialize_element,
    SerializeTupleStruct::serialize_field,
    SerializeTupleVariant::serialize_field,
);

impl Fields<'_> {
    fn put<T: Serialize + ?Sized>(&mut self, key: &str, value: &T) -> Result<(), Unveilable> {
        let value = value.serialize(self.veil.of(key))?;
        self.values.insert(key.to_owned(), value);
        Ok(())
    }

    fn finish(self) -> Value {
        wrapped(self.variant, Value::Object(self.values))
    }
}

impl SerializeStruct for Fields<'_> {
    type Ok = Value;
    type Error = Unveilable;

    fn serialize_field<T: Serialize + ?Sized>(
        &mut self,
        key: &'static str,
        value: &T,
    ) -> Result<(), Unveilable> {
        self.put(key, value)
    }

    fn end(self) -> Result<Value, Unveilable> {
        Ok(self.finish())
    }
}

impl SerializeStructVariant for Fields<'_> {
    type Ok = Value;
    type Error = Unveilable;

    fn serialize_field<T: Serialize + ?Sized>(
        &mut self,
        key: &'static str,
        value: &T,
    ) -> Result<(), Unveilable> {
        self.put(key, value)
    }

    fn end(self) -> Result<Value, Unveilable> {
        Ok(self.finish())
    }
}

impl SerializeMap for Fields<'_> {
    type Ok = Value;
    type Error = Unveilable;

    /// The names of facts are Lifeboat's own.
    fn serialize_key<T: Serialize + ?Sized>(&mut self, key: &T) -> Result<(), Unveilable> {
        let key = serde_json::to_value(key).map_err(ser::Error::custom)?;
        let name = key.as_str().ok_or_else(|| Unveilable("a key is no text".to_owned()))?;
        name.clone_into(&mut self.key);
        Ok(())
    }

    fn serialize_value<T: Serialize + ?Sized>(&mut self, value: &T) -> Result<(), Unveilable> {
        let key = std::mem::take(&mut self.key);
        self.put(&key, value)
    }

    fn end(self) -> Result<Value, Unveilable> {
        Ok(self.finish())
    }
}

impl fmt::Debug for Veil<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Veil").field("what", &self.what).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::catalogue::Code;
    use crate::domain::failure::{Cause, Failure};
    use crate::domain::id::HostId;
    use crate::domain::vm::ResyncReason;
    use serde_json::json;

    #[test]
    fn texts_and_ids_are_replaced_and_words_of_our_own_are_not() {
        let pseudonyms = Pseudonyms::new([7; 32]);
        let cause = Cause::Host(HostId(Uuid::from_u128(5)));
        let failure = Failure::new(Code::HostLost, cause, "no route to 10.1.2.3")
            .with("host", "paris-01")
            .with("operation", "reading a disk");
        let veiled = pseudonyms.veil(&(&failure, "paris-01", 17)).expect("plain data");
        let text = veiled.to_string();
        for secret in ["paris", "10.1.2.3", "0000-000000000005"] {
            assert!(!text.contains(secret), "{text}");
        }
        assert_eq!(veiled[0]["code"], "HostLost");
        assert_eq!(veiled[0]["facts"]["operation"], "reading a disk");
        assert_eq!(veiled[2], json!(17));
        // The same text has the same pseudonym wherever it stands.
        let host = veiled[0]["facts"]["host"].as_str().expect("a text");
        let alone = veiled[1].as_str().expect("a text");
        assert_eq!(host.strip_prefix("host-"), alone.strip_prefix("text-"));
        let _: Failure = serde_json::from_value(veiled[0].clone()).expect("it is a failure still");
    }

    #[test]
    fn free_text_in_a_variant_is_replaced() {
        let reason = ResyncReason::DiskChanged("/srv/payroll.img".to_owned());
        let veiled = Pseudonyms::new([1; 32]).veil(&reason).expect("plain data");
        assert!(!veiled.to_string().contains("payroll"));
        let other = Pseudonyms::new([2; 32]).veil(&reason).expect("plain data");
        assert_ne!(veiled, other, "it does not follow from the text alone");
    }
}
