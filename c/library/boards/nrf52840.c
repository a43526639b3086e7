/* nRF52840: prints the words that a PDM microphone picks up, and lights an LED for a second at the first of them.
 * With nrfx 4; its earlier versions take no instance of PDM.
 *
 * The pins are those of a XIAO nRF52840 Sense, which has the microphone. A Nano 33 BLE Sense has clock, data and power
 * at P0.26, P0.25 and P0.17. printf goes where your project sends it: RTT, a UART or USB.
 * nrfx_config.h must enable PDM, and WDT without interrupt (NRFX_WDT_CONFIG_NO_IRQ). */
#include <stdio.h>

#include "capture.h"
#include "hal/nrf_clock.h"
#include "hal/nrf_gpio.h"
#include "kws_detect.h"
#include "nrfx_pdm.h"
#include "nrfx_wdt.h"

#define SAMPLES 320        /* in half the buffer, 20 ms; what takes longer than that loses samples */
#define GAIN CAPTURE_UNITY /* beside that of the PDM interface, up to 20 dB: so that speech is as loud as in training */

#define CLOCK_PIN NRF_GPIO_PIN_MAP(1, 0)
#define DATA_PIN NRF_GPIO_PIN_MAP(0, 16)
#define POWER_PIN NRF_GPIO_PIN_MAP(1, 10)
#define LED_PIN NRF_GPIO_PIN_MAP(0, 26)
#define LED_ON 0 /* the pin's level */

#if KWS_SAMPLE_RATE != 16000
#error the microphone gives 16 kHz
#endif

static int16_t buffer[2][SAMPLES];
static capture_halves halves;
static nrfx_pdm_t microphone = NRFX_PDM_INSTANCE(NRF_PDM);
static nrfx_wdt_t watchdog = NRFX_WDT_INSTANCE(NRF_WDT);

void PDM_IRQHandler(void) { nrfx_pdm_irq_handler(&microphone); }

static void on_event(const nrfx_pdm_evt_t *event) {
    static int next = 0;
    if (event->buffer_released) halves.full++;
    if (event->error) halves.full += 2; /* one was filled again; two, so that taken % 2 still is the one to read */
    if (event->buffer_requested) {
        nrfx_pdm_buffer_set(&microphone, buffer[next], SAMPLES);
        next = 1 - next;
    }
}

static int start_microphone(void) {
    nrfx_pdm_config_t config = NRFX_PDM_DEFAULT_CONFIG(CLOCK_PIN, DATA_PIN);
    config.prescalers.clock_freq = NRF_PDM_FREQ_1280K;
    config.prescalers.ratio = NRF_PDM_RATIO_80X; /* 16 kHz */
    config.gain_l = NRF_PDM_GAIN_MAXIMUM;
    nrf_clock_task_trigger(NRF_CLOCK, NRF_CLOCK_TASK_HFCLKSTART); /* the crystal: the inner oscillator jitters */
    nrf_gpio_cfg_output(POWER_PIN);
    nrf_gpio_pin_set(POWER_PIN);
    return nrfx_pdm_init(&microphone, &config, on_event) == 0 && nrfx_pdm_start(&microphone) == 0;
}

static int start_watchdog(void) {
    const nrfx_wdt_config_t config = NRFX_WDT_DEFAULT_CONFIG; /* two seconds */
    nrfx_wdt_channel_id channel;
    if (nrfx_wdt_init(&watchdog, &config, NULL, NULL) || nrfx_wdt_channel_alloc(&watchdog, &channel)) return 0;
    nrfx_wdt_enable(&watchdog);
    return 1;
}

int main(void) {
    static capture from_microphone;
    static kws_detector detector;
    static int16_t samples[SAMPLES];
    kws_detection found;
    int32_t light = 0;
    uint32_t overruns = 0;
    nrf_gpio_pin_write(LED_PIN, !LED_ON);
    nrf_gpio_cfg_output(LED_PIN);
    capture_start(&from_microphone, CAPTURE_16, 16000, 1, GAIN);
    kws_detect_start(&detector, KWS_NORMAL);
    while (!start_watchdog() || !start_microphone()) continue; /* a debugger shows which call failed */
    for (;;) {
        /* Without interrupts, so that none comes between the check and WFI, which it wakes all the same. */
        __disable_irq();
        if (halves.full == halves.taken) __WFI();
        __enable_irq();
        nrfx_wdt_feed(&watchdog);
        if (halves.full == halves.taken) continue; /* it was another interrupt */
        const int32_t count = capture_samples(&from_microphone, buffer[halves.taken % 2], SAMPLES, samples);
        const uint32_t lost = capture_taken(&halves);
        if (lost) {
            kws_gap(&detector, lost * SAMPLES);
            printf("%lu overruns\n", (unsigned long)++overruns);
            continue;
        }
        kws_push(&detector, samples, count);
        light -= light < count ? light : count;
        while (kws_next(&detector, &found) == KWS_DETECTED) {
            const uint64_t milliseconds = found.sample / (KWS_SAMPLE_RATE / 1000);
            printf("%lu ms  %s\n", (unsigned long)milliseconds, kws_labels[found.label]);
            if (found.label == KWS_FIRST_WORD) light = KWS_SAMPLE_RATE;
        }
        nrf_gpio_pin_write(LED_PIN, light > 0 ? LED_ON : !LED_ON);
    }
}
