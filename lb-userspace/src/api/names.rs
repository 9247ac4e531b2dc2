//! Reads back the enums of the configuration that the API shows by name.

use serde::{Deserialize, Deserializer, de::Error};

use crate::config::{Level, OnAllDown, Protocol, XdpMode};

macro_rules! read_by_name {
    ($($kind:ty: $($name:literal = $value:ident),*;)*) => {$(
        impl<'de> Deserialize<'de> for $kind {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                match String::deserialize(deserializer)?.as_str() {
                    $($name => Ok(Self::$value),)*
                    other => Err(D::Error::unknown_variant(other, &[$($name),*])),
                }
            }
        }
    )*};
}

read_by_name! {
    Level: "region" = Region, "zone" = Zone, "rack" = Rack;
    OnAllDown: "drop" = Drop, "fail-open" = FailOpen;
    Protocol: "tcp" = Tcp, "udp" = Udp;
    XdpMode: "native" = Native, "generic" = Generic;
}
