//! Errors whose names are the names of their variants.

/// Defines an enum of errors, with a method that returns the name of a variant.
///
/// With a type in brackets before the enum, a variant may carry `=> Value`, where `Value` is one of the type's values.
/// A second method, `annotation`, returns that value, or `Never`.
///
/// ```
/// rotation::named_errors! {
///     /// Why there is no tea.
///     #[derive(Debug)]
///     pub enum TeaError {
///         /// There is no water.
///         NoWater,
///         /// There is too little.
///         TooLittle {
///             /// How much there is.
///             cups: u8,
///         },
///     }
/// }
///
/// assert_eq!(TeaError::NoWater.variant(), "NoWater");
/// assert_eq!(TeaError::TooLittle { cups: 1 }.variant(), "TooLittle");
/// ```
#[macro_export]
macro_rules! named_errors {
    (@annotation $type:ident) => { $type::Never };
    (@annotation $type:ident $value:ident) => { $type::$value };
    ([$type:ident] $(#[$outer:meta])* pub enum $name:ident { $(
        $(#[$inner:meta])* $variant:ident $({ $($fields:tt)* })? $(($($tuple:tt)*))? $(=> $value:ident)?,
    )* }) => {
        $crate::named_errors! { $(#[$outer])* pub enum $name { $(
            $(#[$inner])* $variant $({ $($fields)* })? $(($($tuple)*))?,
        )* } }

        impl $name {
            fn annotation(&self) -> $type {
                match self { $(Self::$variant { .. } => $crate::named_errors!(@annotation $type $($value)?),)* }
            }
        }
    };
    ($(#[$outer:meta])* pub enum $name:ident { $(
        $(#[$inner:meta])* $variant:ident $({ $($fields:tt)* })? $(($($tuple:tt)*))?,
    )* }) => {
        $(#[$outer])*
        pub enum $name { $($(#[$inner])* $variant $({ $($fields)* })? $(($($tuple)*))?,)* }

        impl $name {
            /// The names of all variants.
            pub const VARIANTS: &'static [&'static str] = &[$(stringify!($variant)),*];

            /// The name of the variant.
            fn variant(&self) -> &'static str {
                match self { $(Self::$variant { .. } => stringify!($variant),)* }
            }
        }
    };
}
