// Colours: light or dark as the system says, or as the user has chosen. The canvas takes its colours from here.

// Okabe and Ito's palette, told apart with any colour vision; a lighter form for dark ground.
export const PALETTE = [
  ["#0f766e", "#2dd4bf"],
  ["#c2410c", "#fb923c"],
  ["#1d4ed8", "#7ab0ff"],
  ["#a21caf", "#e879f9"],
  ["#a16207", "#facc15"],
  ["#be123c", "#fb7185"],
  ["#4d7c0f", "#a3e635"],
  ["#475569", "#cbd5e1"],
];
export const RAMP = ["#3b528b", "#2c718e", "#21908d", "#27ad81", "#5cc863", "#aadc32", "#d9d21f"];

const LIGHT = { dark: false, land: "#e9e6df", coast: "#b9b3a6", halo: "#ffffff", text: "#1c2430", stale: "#8a93a0", link: "#0f766e", warn: "#b45309", bad: "#b91c1c" };
const DARK = { dark: true, land: "#242c36", coast: "#46515f", halo: "#10151b", text: "#e6eaf0", stale: "#76828f", link: "#2dd4bf", warn: "#fbbf24", bad: "#f87171" };

const system = matchMedia("(prefers-color-scheme: dark)");

export const isDark = () => (document.documentElement.dataset.theme ? document.documentElement.dataset.theme === "dark" : system.matches);
export const style = () => (isDark() ? DARK : LIGHT);

function stored() {
  try {
    return localStorage.getItem("theme");
  } catch {
    return null;
  }
}

export function startTheme(button, onchange) {
  const show = () => (button.textContent = isDark() ? "☀" : "☾");
  if (stored()) document.documentElement.dataset.theme = stored();
  button.addEventListener("click", () => {
    document.documentElement.dataset.theme = isDark() ? "light" : "dark";
    try {
      localStorage.setItem("theme", document.documentElement.dataset.theme);
    } catch {
      // kept for this page alone
    }
    show();
    onchange();
  });
  system.addEventListener("change", () => {
    show();
    onchange();
  });
  show();
}
