import { defineConfig } from "vite";

// paths are relative: the page works below any address, also as files of a static site
export default defineConfig({
  base: "./",
  publicDir: false,
  build: { target: "es2022", modulePreload: false, chunkSizeWarningLimit: 1000, assetsInlineLimit: 0 },
});
