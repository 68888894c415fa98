//! rpcv2Cbor: the protocol of the SDK for Rust, AWS CLI 1.45 and boto3 1.43.

use std::collections::BTreeMap;

use axum::body::Body;
use http::{Response, StatusCode};
use minicbor::data::{IanaTag, Tag, Type};

use super::{ApiError, MAX_DEPTH, Value};

pub(crate) fn read(body: &[u8]) -> Result<Value, ApiError> {
    let mut decoder = minicbor::Decoder::new(body);
    let value = cbor_value(&mut decoder, 0).map_err(ApiError::malformed)?;
    if decoder.position() < body.len() {
        return Err(ApiError::malformed("it goes on after its end"));
    }
    Ok(value)
}

fn cbor_value(decoder: &mut minicbor::Decoder<'_>, depth: usize) -> Result<Value, minicbor::decode::Error> {
    if depth > MAX_DEPTH {
        return Err(minicbor::decode::Error::message("nested too deeply"));
    }
    Ok(match decoder.datatype()? {
        Type::Null | Type::Undefined => {
            decoder.skip()?;
            Value::Null
        }
        Type::Bool => Value::Bool(decoder.bool()?),
        Type::F16 | Type::F32 | Type::F64 => Value::Number(decoder.f64()?),
        Type::String | Type::StringIndef => Value::Text(decoder.str_iter()?.collect::<Result<_, _>>()?),
        Type::Tag => {
            let tag = decoder.tag()?;
            match cbor_value(decoder, depth + 1)? {
                Value::Number(seconds) if tag == Tag::from(IanaTag::Timestamp) => Value::Time(seconds),
                other => other,
            }
        }
        Type::Array | Type::ArrayIndef => {
            let length = decoder.array()?;
            let mut values = Vec::new();
            while more(decoder, length, values.len())? {
                values.push(cbor_value(decoder, depth + 1)?);
            }
            Value::List(values)
        }
        Type::Map | Type::MapIndef => {
            let length = decoder.map()?;
            let mut members = BTreeMap::new();
            let mut read = 0;
            while more(decoder, length, read)? {
                read += 1;
                let name = decoder.str_iter()?.collect::<Result<String, _>>()?;
                match cbor_value(decoder, depth + 1)? {
                    Value::Null => {}
                    value => drop(members.insert(name, value)),
                }
            }
            Value::Map(members)
        }
        // The only readable item that is left is a whole number.
        _ => Value::Number(i128::from(decoder.int()?) as f64),
    })
}

/// Whether a list or map has another item. Skips the end mark of one of unknown length.
fn more(
    decoder: &mut minicbor::Decoder<'_>,
    length: Option<u64>,
    read: usize,
) -> Result<bool, minicbor::decode::Error> {
    if let Some(length) = length {
        return Ok((read as u64) < length);
    }
    let ends = decoder.datatype()? == Type::Break;
    if ends {
        decoder.skip()?;
    }
    Ok(!ends)
}

pub(crate) fn respond(status: StatusCode, output: &Value, headers: &[(&str, &str)]) -> Response<Body> {
    let mut encoder = minicbor::Encoder::new(Vec::new());
    // Writing to a vector cannot fail.
    let _ = write_cbor(&mut encoder, output);
    let own = [("content-type", "application/cbor"), ("smithy-protocol", "rpc-v2-cbor")];
    super::respond(status, &[&own[..], headers].concat(), encoder.into_writer())
}

type CborResult = Result<(), minicbor::encode::Error<std::convert::Infallible>>;

fn write_cbor(encoder: &mut minicbor::Encoder<Vec<u8>>, value: &Value) -> CborResult {
    match value {
        Value::Null => encoder.null()?,
        Value::Bool(flag) => encoder.bool(*flag)?,
        Value::Number(number) => encoder.f64(*number)?,
        Value::Text(text) => encoder.str(text)?,
        Value::Time(seconds) => encoder.tag(IanaTag::Timestamp)?.f64(*seconds)?,
        Value::List(values) => {
            encoder.array(values.len() as u64)?;
            values.iter().try_for_each(|value| write_cbor(encoder, value))?;
            encoder
        }
        Value::Map(members) => {
            encoder.map(members.len() as u64)?;
            for (name, value) in members {
                encoder.str(name)?;
                write_cbor(encoder, value)?;
            }
            encoder
        }
    };
    Ok(())
}
