//! What the API's document says of types that are written as text.

use std::borrow::Cow;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};

use super::{IpPrefix, Ports, Vip};

macro_rules! schemas {
    ($($type:ident: $schema:tt;)*) => {
        $(impl JsonSchema for $type {
            fn schema_name() -> Cow<'static, str> {
                Cow::Borrowed(stringify!($type))
            }

            fn json_schema(_: &mut SchemaGenerator) -> Schema {
                json_schema!($schema)
            }
        })*
    };
}

schemas! {
    IpPrefix: {
        "type": "string",
        "description": "A prefix of either family, in canonical form.",
        "examples": ["192.0.2.0/24", "2001:db8::/32"]
    };
    Vip: {
        "type": "string",
        "description": "A virtual IP: an address, or all of a prefix.",
        "examples": ["192.0.2.10", "2001:db8:1::/64"]
    };
    Ports: {
        "description": "One port as a number, or several as text.",
        "oneOf": [
            {"type": "integer", "minimum": 1, "maximum": 65535},
            {"type": "string", "examples": ["8000-8099", "any"]}
        ]
    };
}
