/** A QR code of a text that this page was just given: an invitation, a line to join by. Made here, not by a stranger. */

import { encode } from "uqr";
import { Qr } from "./qr";

export function QrOf({ text, label }: { text: string; label: string }) {
  const rows = encode(text, { ecc: "L", border: 0 }).data.map((row) => row.map((dark) => (dark ? "1" : "0")).join(""));
  return <Qr rows={rows} label={label} />;
}
