/* ESP32-S3: prints the words that an I2S microphone picks up, and lights an LED for a second at the first of them.
 * With ESP-IDF 5.3 or newer. Nothing here is of the S3 alone but the pins.
 *
 * A microphone such as INMP441: SCK at GPIO 4, WS at GPIO 5, SD at GPIO 6, L/R at GND, VDD at 3.3 V. The LED is the one
 * of a XIAO ESP32S3, GPIO 21. The component with this file requires esp_driver_i2s, esp_driver_gpio and the module. */
#include <stdio.h>

#include "capture.h"
#include "driver/gpio.h"
#include "driver/i2s_std.h"
#include "esp_attr.h"
#include "esp_task_wdt.h"
#include "kws_detect.h"

#define RATE 16000 /* of the microphone; 48000 for one that has no lower rate, with FRAMES 960 */
#define FRAMES 320 /* at a time, 20 ms */
#define WAITING 6  /* times FRAMES that the driver holds, 120 ms; what takes longer loses samples */
#define SAMPLES (FRAMES * KWS_SAMPLE_RATE / RATE)
#define GAIN (8 * CAPTURE_UNITY) /* so that speech is as loud as in the recordings of training */
#define LED GPIO_NUM_21
#define LED_ON 0 /* the pin's level */

#if KWS_SAMPLE_RATE != 16000
#error capture.c gives 16 kHz
#endif

static volatile uint32_t lost_bytes; /* since the start; only the interrupt changes it */

static bool IRAM_ATTR on_overrun(i2s_chan_handle_t microphone, i2s_event_data_t *event, void *nothing) {
    (void)microphone, (void)nothing;
    lost_bytes += (uint32_t)event->size;
    return false; /* no task was woken */
}

static i2s_chan_handle_t start_microphone(void) {
    i2s_chan_handle_t microphone;
    i2s_chan_config_t channel = I2S_CHANNEL_DEFAULT_CONFIG(I2S_NUM_AUTO, I2S_ROLE_MASTER);
    channel.dma_desc_num = WAITING;
    channel.dma_frame_num = FRAMES;
    ESP_ERROR_CHECK(i2s_new_channel(&channel, NULL, &microphone));
    const i2s_std_config_t config = {
        .clk_cfg = I2S_STD_CLK_DEFAULT_CONFIG(RATE),
        .slot_cfg = I2S_STD_PHILIPS_SLOT_DEFAULT_CONFIG(I2S_DATA_BIT_WIDTH_32BIT, I2S_SLOT_MODE_MONO),
        .gpio_cfg = {.mclk = I2S_GPIO_UNUSED,
                     .bclk = GPIO_NUM_4,
                     .ws = GPIO_NUM_5,
                     .dout = I2S_GPIO_UNUSED,
                     .din = GPIO_NUM_6},
    };
    ESP_ERROR_CHECK(i2s_channel_init_std_mode(microphone, &config));
    const i2s_event_callbacks_t callbacks = {.on_recv_q_ovf = on_overrun};
    ESP_ERROR_CHECK(i2s_channel_register_event_callback(microphone, &callbacks, NULL));
    ESP_ERROR_CHECK(i2s_channel_enable(microphone));
    return microphone;
}

void app_main(void) {
    static capture from_microphone;
    static kws_detector detector;
    static int32_t given[FRAMES];
    static int16_t samples[SAMPLES + 1];
    kws_detection found;
    int32_t light = 0;
    uint32_t lost_before = 0, overruns = 0;
    gpio_set_direction(LED, GPIO_MODE_OUTPUT);
    capture_start(&from_microphone, CAPTURE_24_IN_32, RATE, 1, GAIN);
    kws_detect_start(&detector, KWS_NORMAL);
    const i2s_chan_handle_t microphone = start_microphone();
    ESP_ERROR_CHECK(esp_task_wdt_add(NULL)); /* CONFIG_ESP_TASK_WDT_TIMEOUT_S, five seconds unless changed */
    for (;;) {
        size_t bytes = 0;
        /* The task sleeps while it waits; on an error there are fewer bytes. */
        (void)i2s_channel_read(microphone, given, sizeof given, &bytes, 1000);
        ESP_ERROR_CHECK(esp_task_wdt_reset());
        const uint32_t lost = (lost_bytes - lost_before) / sizeof *given;
        if (lost) { /* the driver drops the oldest, so the gap is before what was read now */
            lost_before += lost * sizeof *given;
            kws_gap(&detector, lost / (RATE / KWS_SAMPLE_RATE));
            printf("%lu overruns\n", (unsigned long)++overruns);
        }
        const int32_t frames = (int32_t)(bytes / sizeof *given);
        const int32_t count = capture_samples(&from_microphone, given, frames, samples);
        kws_push(&detector, samples, count);
        light -= light < count ? light : count;
        while (kws_next(&detector, &found) == KWS_DETECTED) {
            const uint64_t milliseconds = found.sample / (KWS_SAMPLE_RATE / 1000);
            printf("%lu ms  %s\n", (unsigned long)milliseconds, kws_labels[found.label]);
            if (found.label == KWS_FIRST_WORD) light = KWS_SAMPLE_RATE;
        }
        gpio_set_level(LED, light > 0 ? LED_ON : !LED_ON);
    }
}
