// Money as decimal text and integers of minor units. No amount is ever a floating-point number: a
// JSON number arrives as its text, and is shown from its text.

const DIGITS_MAX = 18;

/** JSON with every number as its text, so that none is rounded on the way in. */
export function parseExact(text) {
  return JSON.parse(
    text.replace(/"(?:[^"\\]|\\.)*"|-?\d+(?:\.\d+)?(?:[eE][+-]?\d+)?/g, (token) =>
      token.startsWith('"') ? token : `"${token}"`,
    ),
  );
}

/** How many digits the minor unit of `currency` has. */
export function digitsOf(currency) {
  try {
    const format = new Intl.NumberFormat("en", { style: "currency", currency });
    return format.resolvedOptions().maximumFractionDigits;
  } catch {
    return 2;
  }
}

/** Minor units of a decimal text such as `-12.5`. */
export function toMinor(text, currency) {
  const [whole, fraction = ""] = text.replace("-", "").split(".");
  const minor = BigInt(whole + fraction.padEnd(digitsOf(currency), "0"));
  return text.startsWith("-") ? -minor : minor;
}

/** The decimal text of minor units. */
export function toText(minor, currency) {
  const digits = digitsOf(currency);
  const text = String(minor < 0n ? -minor : minor).padStart(digits + 1, "0");
  const sign = minor < 0n ? "-" : "";
  if (digits === 0) return sign + text;
  return `${sign}${text.slice(0, -digits)}.${text.slice(-digits)}`;
}

/** As people write it: `signed` shows a plus, too. Browsers format a decimal text exactly. */
export function money(text, currency, locale, signed = false) {
  try {
    return new Intl.NumberFormat(locale, {
      style: "currency",
      currency,
      signDisplay: signed ? "exceptZero" : "auto",
    }).format(text);
  } catch {
    return `${text} ${currency}`;
  }
}

/**
 * What a person typed as an amount: `{ text }`, or `{ fault }` naming what is wrong.
 *
 * Both separators are taken whatever the language, since people paste: the last one is the decimal
 * separator, unless it can only be one of thousands. What was understood is shown below the field.
 */
export function readAmount(typed, currency, locale) {
  const plain = typed.replace(/[\s\u00a0\u202f]/g, "").replace(/^(R\$|[$€£])/, "");
  if (plain === "") return { fault: "amount-missing" };
  if (!/^[0-9.,]+$/.test(plain) || !/[0-9]/.test(plain)) return { fault: "amount-malformed" };
  const decimalOf = new Intl.NumberFormat(locale).formatToParts(1.5).find((p) => p.type === "decimal");
  const marks = plain.match(/[.,]/g) ?? [];
  const last = marks.at(-1);
  const after = last === undefined ? "" : plain.slice(plain.lastIndexOf(last) + 1);
  const kinds = new Set(marks).size;
  const onlyThousands =
    marks.length > 0 &&
    kinds === 1 &&
    after.length === 3 &&
    (marks.length > 1 || last !== decimalOf.value) &&
    digitsOf(currency) < 3;
  const decimal = onlyThousands || marks.length === 0 ? null : last;
  if (decimal !== null && marks.filter((mark) => mark === decimal).length > 1) {
    return { fault: "amount-malformed" };
  }
  const [whole, fraction = ""] = decimal === null ? [plain] : split(plain, decimal);
  const grouped = whole.split(/[.,]/);
  if (grouped.length > 1 && !grouped.every((g, i) => (i === 0 ? /^\d{1,3}$/ : /^\d{3}$/).test(g))) {
    return { fault: "amount-malformed" };
  }
  const digits = grouped.join("").replace(/^0+(?=\d)/, "") || "0";
  const cents = fraction.replace(/0+$/, "");
  if (cents.length > digitsOf(currency)) return { fault: "amount-digits", digits: digitsOf(currency) };
  if (digits.length + digitsOf(currency) > DIGITS_MAX) return { fault: "amount-large" };
  const minor = toMinor(cents === "" ? digits : `${digits}.${cents}`, currency);
  if (minor === 0n) return { fault: "amount-zero" };
  return { text: toText(minor, currency) };
}

function split(text, mark) {
  const at = text.lastIndexOf(mark);
  return [text.slice(0, at), text.slice(at + 1)];
}
