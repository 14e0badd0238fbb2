/** A QR code from its rows of "0" and "1", dark on light in either theme, as scanners want it. */

export function Qr({ rows, label }: { rows: readonly string[]; label: string }) {
  // Scanners need a margin of four modules (ISO/IEC 18004, 9.1).
  const margin = 4;
  const size = rows.length + 2 * margin;
  let path = "";
  rows.forEach((row, y) => {
    for (let x = 0; x < row.length; x += 1) if (row[x] === "1") path += `M${x + margin} ${y + margin}h1v1h-1z`;
  });
  return (
    <svg class="qr" viewBox={`0 0 ${size} ${size}`} role="img" aria-label={label} shapeRendering="crispEdges">
      <rect width={size} height={size} fill="#fff" />
      <path d={path} fill="#000" />
    </svg>
  );
}
