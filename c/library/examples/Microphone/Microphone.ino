/* Prints the words that the board's PDM microphone picks up, and lights the LED for a second at the first of them.
 *
 * For boards whose core has the library PDM: Arduino Nano 33 BLE Sense, Nano RP2040 Connect, Portenta H7, Nicla and
 * others. With another microphone, two functions differ: receive and microphone_start. */
#include <PDM.h>
#include <kws_detect.h>

#define WAITING 8192 /* samples, half a second of 16 kHz; a power of two */

static int16_t waiting[WAITING]; /* a ring: samples come in interrupts, and wait here until loop() takes them */
static volatile uint32_t written = 0;
static uint32_t taken = 0;

static void receive() {
  int16_t part[128];
  for (int bytes; (bytes = PDM.available()) > 0;) {
    const int count = PDM.read(part, bytes < (int)sizeof part ? bytes : (int)sizeof part) / 2;
    for (int i = 0; i < count; i++) waiting[(written + i) % WAITING] = part[i];
    written += count;
  }
}

static bool microphone_start() {
  PDM.onReceive(receive);
  return PDM.begin(1, KWS_SAMPLE_RATE); /* one channel */
}

static kws_detector detector;

/* Wait for the next samples, and give them to the detector as they lie in the ring. */
static void listen() {
  uint32_t count;
  while ((count = written - taken) == 0) {
  }
  if (count > WAITING) { /* too slow: what was overwritten is lost */
    kws_gap(&detector, count);
    taken += count;
    return;
  }
  const uint32_t place = taken % WAITING;
  if (count > WAITING - place) count = WAITING - place; /* the others are at the start of the ring */
  kws_push(&detector, waiting + place, (int32_t)count);
  taken += count;
}

void setup() {
  Serial.begin(115200);
  pinMode(LED_BUILTIN, OUTPUT);
  kws_detect_start(&detector, KWS_NORMAL);
  if (!microphone_start()) Serial.println("no microphone");
}

void loop() {
  static uint32_t lit_at = 0;
  kws_detection found;
  listen();
  while (kws_next(&detector, &found) == KWS_DETECTED) {
    Serial.print((double)found.sample / KWS_SAMPLE_RATE, 3);
    Serial.print(" s  ");
    Serial.println(kws_labels[found.label]);
    if (found.label == KWS_FIRST_WORD) {
      digitalWrite(LED_BUILTIN, HIGH);
      lit_at = millis();
    }
  }
  if (millis() - lit_at > 1000) digitalWrite(LED_BUILTIN, LOW);
}
