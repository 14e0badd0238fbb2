import { defineConfig } from "vite";

// The proxy serves index.html and what is under assets/, from memory, under a policy without inline code
// (tinyport/proxy/web_page.py): so nothing is inlined, and every file is named by its content.
export default defineConfig({
  base: "/",
  build: {
    outDir: "../tinyport/proxy/page",
    emptyOutDir: true,
    assetsInlineLimit: 0,
    modulePreload: { polyfill: false },
    target: "es2020",
    reportCompressedSize: false,
  },
});
