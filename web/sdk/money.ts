/** An amount in the currency's smallest unit. */
export interface Money {
  /** ISO 4217. */
  readonly currency: string;
  readonly minorUnits: bigint;
}

/** Writes an amount as people of a locale do; the page's own language when none is given. */
export function formatMoney(money: Money, locale?: string): string {
  const format = new Intl.NumberFormat(locale, { style: "currency", currency: money.currency });
  const digits = format.resolvedOptions().maximumFractionDigits ?? 2;
  // As a decimal text: no amount passes through a float.
  const text = money.minorUnits.toString().padStart(digits + 1, "0");
  const split = text.length - digits;
  const decimal = digits === 0 ? text : `${text.slice(0, split)}.${text.slice(split)}`;
  return format.format(decimal as Intl.StringNumericLiteral);
}
