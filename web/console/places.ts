// Where cloud regions stand, and the outline of the land: drawn by hand for this page, good for orientation only.

/** Longitude and latitude in degrees, by the name that the provider gives the region. */
const PLACES: Record<string, readonly [number, number]> = {
  // Google Cloud
  "africa-south1": [28, -26.2], "asia-east1": [120.5, 24], "asia-east2": [114.2, 22.3], "asia-northeast1": [139.7, 35.7],
  "asia-northeast2": [135.5, 34.7], "asia-northeast3": [127, 37.5], "asia-south1": [72.9, 19.1], "asia-south2": [77.2, 28.6],
  "asia-southeast1": [103.8, 1.3], "asia-southeast2": [106.8, -6.2], "australia-southeast1": [151.2, -33.9],
  "australia-southeast2": [145, -37.8], "europe-central2": [21, 52.2], "europe-north1": [27.2, 60.6], "europe-north2": [18.1, 59.3],
  "europe-southwest1": [-3.7, 40.4], "europe-west1": [3.8, 50.4], "europe-west2": [-0.1, 51.5], "europe-west3": [8.7, 50.1],
  "europe-west4": [6.8, 53.4], "europe-west6": [8.5, 47.4], "europe-west8": [9.2, 45.5], "europe-west9": [2.4, 48.9],
  "europe-west10": [13.4, 52.5], "europe-west12": [7.7, 45.1], "me-central1": [51.5, 25.3], "me-central2": [50.1, 26.4],
  "me-west1": [34.8, 32.1], "northamerica-northeast1": [-73.6, 45.5], "northamerica-northeast2": [-79.4, 43.7],
  "northamerica-south1": [-100.4, 20.6], "southamerica-east1": [-46.6, -23.5], "southamerica-west1": [-70.7, -33.4],
  "us-central1": [-95.9, 41.3], "us-east1": [-80, 33.2], "us-east4": [-77.5, 39], "us-east5": [-83, 40], "us-south1": [-96.8, 32.8],
  "us-west1": [-121.2, 45.6], "us-west2": [-118.2, 34.1], "us-west3": [-111.9, 40.8], "us-west4": [-115.1, 36.2],
  // AWS
  "af-south-1": [18.4, -33.9], "ap-east-1": [114.2, 22.3], "ap-northeast-1": [139.7, 35.7], "ap-northeast-2": [127, 37.5],
  "ap-northeast-3": [135.5, 34.7], "ap-south-1": [72.9, 19.1], "ap-south-2": [78.5, 17.4], "ap-southeast-1": [103.8, 1.3],
  "ap-southeast-2": [151.2, -33.9], "ap-southeast-3": [106.8, -6.2], "ap-southeast-4": [145, -37.8], "ca-central-1": [-73.6, 45.5],
  "ca-west-1": [-114.1, 51], "eu-central-1": [8.7, 50.1], "eu-central-2": [8.5, 47.4], "eu-north-1": [18.1, 59.3],
  "eu-south-1": [9.2, 45.5], "eu-south-2": [-0.9, 41.6], "eu-west-1": [-6.3, 53.3], "eu-west-2": [-0.1, 51.5], "eu-west-3": [2.4, 48.9],
  "il-central-1": [34.8, 32.1], "me-central-1": [54.4, 24.5], "me-south-1": [50.6, 26.1], "mx-central-1": [-100.4, 20.6],
  "sa-east-1": [-46.6, -23.5], "us-east-1": [-77.5, 39], "us-east-2": [-83, 40], "us-west-1": [-121.9, 37.4], "us-west-2": [-119.7, 45.8],
};

export const WIDTH = 1000;
export const HEIGHT = 376;
const NORTH = 77;

/** Equirectangular, cut where nobody lives. */
const project = ([lon, lat]: readonly [number, number]): [number, number] => [((lon + 180) / 360) * WIDTH, ((NORTH - lat) / 360) * WIDTH];

/** Where a region stands on the map: by its name, or by a name that its own begins with ("europe-west1-b"). */
export function position(region: string): [number, number] | undefined {
  for (let name = region; name !== ""; name = name.slice(0, Math.max(0, name.lastIndexOf("-")))) {
    const place = PLACES[name];
    if (place) return project(place);
  }
  return undefined;
}

const LAND: readonly (readonly number[])[] = [
  // North America, Greenland, South America
  [-168, 66, -156, 71, -128, 70, -110, 68, -95, 69, -82, 68, -82, 64, -94, 60, -93, 57, -82, 55, -79, 52, -77, 58, -78, 62, -70, 61, -65, 59,
    -56, 53, -60, 50, -66, 50, -61, 46, -65, 44, -70, 43, -74, 40, -76, 36, -81, 31, -80, 26, -82, 28, -84, 30, -90, 29, -97, 28, -97, 22,
    -94, 18, -88, 21, -88, 16, -83, 15, -83, 10, -78, 9, -83, 8, -87, 12, -95, 16, -105, 20, -109, 26, -114, 31, -110, 23, -115, 29, -118, 34,
    -123, 38, -124, 46, -128, 51, -134, 58, -145, 60, -152, 58, -163, 55, -157, 59, -166, 62],
  [-45, 60, -53, 66, -55, 70, -68, 76, -68, 77, -18, 77, -22, 71, -38, 66],
  [-78, 9, -72, 12, -62, 10, -51, 4, -44, -2, -35, -6, -39, -13, -41, -22, -48, -26, -54, -34, -58, -38, -65, -42, -66, -48, -68, -54, -74, -52,
    -73, -40, -71, -30, -70, -18, -76, -14, -81, -5, -78, 2],
  // Africa, Madagascar
  [-6, 36, 10, 37, 11, 33, 20, 31, 32, 31, 37, 22, 43, 12, 51, 12, 40, -3, 40, -15, 35, -20, 33, -27, 27, -34, 18, -34, 12, -18, 13, -6, 9, 4,
    -4, 5, -8, 4, -13, 9, -17, 14, -16, 21, -10, 30],
  [49, -12, 50, -16, 47, -25, 44, -25, 44, -17],
  // Eurasia
  [-9, 43, -9, 37, -5, 36, 0, 39, 3, 43, 9, 44, 12, 42, 16, 38, 18, 40, 13, 45, 19, 42, 23, 37, 26, 40, 28, 37, 36, 36, 35, 31, 39, 21, 43, 13,
    52, 17, 59, 22, 56, 25, 50, 29, 57, 26, 66, 25, 72, 21, 77, 8, 80, 15, 88, 22, 94, 17, 98, 9, 104, 1, 102, 7, 100, 13, 105, 9, 109, 12,
    106, 20, 114, 22, 122, 30, 119, 36, 122, 40, 126, 35, 129, 36, 128, 40, 135, 44, 141, 53, 137, 55, 155, 59, 163, 61, 156, 51, 163, 57,
    178, 63, 180, 66, 180, 69, 160, 70, 140, 73, 113, 74, 100, 77, 80, 73, 68, 73, 68, 68, 55, 69, 44, 68, 40, 64, 40, 67, 28, 71, 15, 68,
    5, 61, 7, 58, 11, 59, 13, 56, 18, 60, 18, 63, 22, 65, 25, 65, 22, 61, 30, 60, 24, 58, 21, 56, 18, 54, 10, 54, 10, 57, 8, 57, 8, 54, 4, 52, -2, 49, -5, 48,
    -1, 46, -2, 43],
  // Great Britain, Ireland, Iceland
  [-5, 50, 1, 51, 0, 53, -2, 56, -4, 58, -6, 57, -3, 54, -5, 52], [-10, 52, -6, 52, -6, 55, -9, 54], [-24, 65, -18, 66, -14, 65, -19, 63],
  // Japan, Taiwan, the Philippines, Sri Lanka
  [130, 31, 136, 34, 141, 36, 142, 40, 145, 43, 141, 45, 140, 41, 137, 37, 131, 34], [121, 25, 120, 23, 121, 22, 122, 25],
  [120, 18, 122, 17, 126, 8, 123, 8, 120, 14], [80, 10, 82, 7, 80, 6],
  // Sumatra, Borneo, Java, Sulawesi, New Guinea
  [95, 5, 104, -3, 106, -6, 101, -2], [109, 1, 117, 7, 118, 1, 115, -4, 110, -3], [105, -7, 114, -7, 114, -9, 106, -8],
  [119, 0, 125, 1, 121, -1, 122, -5, 120, -5], [131, -1, 141, -3, 150, -10, 141, -9, 135, -4],
  // Australia, Tasmania, New Zealand
  [114, -22, 122, -18, 130, -12, 136, -12, 136, -16, 140, -17, 142, -11, 146, -19, 153, -27, 150, -37, 144, -39, 138, -35, 131, -32, 124, -33,
    115, -34],
  [145, -41, 148, -41, 147, -43], [173, -35, 178, -38, 174, -42, 168, -47, 167, -45, 173, -40],
];

/** The land as the d of an SVG path. */
export const OUTLINE = LAND.map((line) => {
  const points: string[] = [];
  for (let i = 0; i + 1 < line.length; i += 2) points.push(project([line[i]!, line[i + 1]!]).map((v) => v.toFixed(1)).join(" "));
  return `M${points.join("L")}Z`;
}).join("");

/** Meridians and parallels every 30 degrees, likewise. */
export const GRATICULE = [
  ...[-150, -120, -90, -60, -30, 0, 30, 60, 90, 120, 150].map((lon) => `M${project([lon, NORTH])[0].toFixed(1)} 0V${HEIGHT}`),
  ...[60, 30, 0, -30].map((lat) => `M0 ${project([0, lat])[1].toFixed(1)}H${WIDTH}`),
].join("");
